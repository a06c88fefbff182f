# SPDX-License-Identifier: Apache-2.0
"""Makes the fixtures of the container monitor's tests known."""

from __future__ import annotations

from tests.node.fix_monitor import front_node, watched

__all__ = ["front_node", "watched"]
