# SPDX-License-Identifier: Apache-2.0
"""Cuts a node off the wire, as a pulled cable would: routes, rules and neighbours stay."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from collections.abc import Iterator

from tests.testbed.moving import MovingNode

UPLINK = "eth0"


@contextlib.contextmanager
def cut(node: MovingNode) -> Iterator[None]:
    """For as long as the context lasts; the node itself sees no more than a lost carrier.

    Its end of the wire is left alone: with that down, the node would lose its routes.
    """
    index = node.node.read(f"/sys/class/net/{UPLINK}/iflink")
    far_end = socket.if_indextoname(int(index))
    # An engine in another network namespace would have the number belong to something else.
    assert far_end.startswith("veth"), far_end
    assert _carrier(node) == "1"
    _set(far_end, "down")
    try:
        assert _carrier(node) == "0"
        yield
    finally:
        _set(far_end, "up")


def _carrier(node: MovingNode) -> str:
    return node.node.read(f"/sys/class/net/{UPLINK}/carrier").decode().strip()


def _set(name: str, state: str) -> None:
    subprocess.run(["ip", "link", "set", "dev", name, state], check=True, capture_output=True)
