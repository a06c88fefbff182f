# SPDX-License-Identifier: Apache-2.0
"""A client of redis that holds on to one connection and counts, from a node's own network."""

from __future__ import annotations

import ctypes
import socket
from concurrent.futures import ThreadPoolExecutor

from tests.testbed.kubelet import Kubelet


def connect_inside(kubelet: Kubelet, address: tuple[str, int]) -> socket.socket:
    """A connection from the node's network namespace; a socket stays in the one it was made in."""

    def make() -> socket.socket:
        with kubelet.node.path("/proc/1/ns/net").open() as namespace:
            assert ctypes.CDLL(None).setns(namespace.fileno(), 0) == 0
        return socket.create_connection(address, timeout=30)

    # A thread of its own, which ends: it must not come back to anybody in that namespace.
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(make).result()


class Client:
    """A connection to redis that counts, and would notice a reset or a lost answer."""

    def __init__(self, kubelet: Kubelet, ip: str) -> None:
        self.socket = connect_inside(kubelet, (ip, 6379))
        self.count = 0

    def ask(self) -> None:
        """One question on the same connection."""
        self.socket.sendall(b"INCR n\r\n")
        self.count += 1
        assert self.socket.recv(100) == b":%d\r\n" % self.count
