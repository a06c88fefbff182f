# SPDX-License-Identifier: Apache-2.0
"""The rules, one file each: what podferry does to a call besides passing it."""
