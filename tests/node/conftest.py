# SPDX-License-Identifier: Apache-2.0
"""Makes the fixtures of the container monitors' tests known."""

from __future__ import annotations

from tests.node.fix_monitor import front_node, watched
from tests.node.fix_move import move_nodes, mover, pair, served

__all__ = ["front_node", "move_nodes", "mover", "pair", "served", "watched"]
