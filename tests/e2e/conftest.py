# SPDX-License-Identifier: Apache-2.0
"""Nodes between which pods move, one pair for a module; pods end with each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.testbed.moving import MovingNode, eventually, moving
from tests.testbed.node import Node


@pytest.fixture(scope="module")
def movers(node_pair: list[Node]) -> Iterator[list[MovingNode]]:
    """podferry on both nodes."""
    with moving(node_pair) as made:
        yield made


@pytest.fixture
def pair(movers: list[MovingNode]) -> Iterator[tuple[MovingNode, MovingNode]]:
    """Both; whatever pods a test leaves are removed, and nothing else may be left."""
    first, second = movers
    try:
        yield first, second
    finally:
        for one in movers:
            if not one.shim.daemon.is_running():
                one.shim.start()
            one.remove_all()
    for one in movers:
        eventually(lambda one=one: not one.left(), one)
