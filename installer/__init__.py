# SPDX-License-Identifier: Apache-2.0
"""Installs, upgrades and removes podferry on a node."""
