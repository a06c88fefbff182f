# SPDX-License-Identifier: Apache-2.0
"""The `podferry` command: a module for each of its commands, or for a pair that belongs to it."""
