# SPDX-License-Identifier: Apache-2.0
"""The demo of `make demo`: a real node, and what podferry does on it."""
