# SPDX-License-Identifier: Apache-2.0
"""A pod's move from S to T as its nodes do it, step by step, and what tests send meanwhile."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from shim._native_hold import Phase
from shim.network import addresses, flip, reroute, routes, via
from shim.network.hold import Hold
from shim.network.via import Via
from tests.bpf.reroute_net import Place, World


@dataclass
class Move:
    """A pod on S, its replacement on T, and what the two nodes have done so far."""

    net: World
    root: Path
    pod: Place
    heir: Place
    hold: Hold
    heirs_hold: Hold
    prepared: addresses.Prepared
    vias: tuple[Via, ...]
    shut_s: float = 0
    stall_s: float = 0

    def client(self, where: str) -> Place:
        node = {"source": self.net.source, "target": self.net.target, "third": self.net.third}
        name, _, pod = where.partition("-")
        place = node.get(name, self.net.outside)
        return place.add_pod() if pod else place  # type: ignore[union-attr]

    def shut(self) -> None:
        self.shut_s = time.monotonic()
        self.net.source.run(self.hold.arm)

    def commit(self) -> None:
        """What T does before the resume."""
        self.net.target.run(lambda: addresses.expose(self.prepared))
        self.heirs_hold.speak()

    def hand_over(self) -> None:
        """What follows the resume on both nodes."""
        self.net.target.run(self.heirs_hold.release)
        self.net.source.run(self.hold.forward)
        self.stall_s = time.monotonic() - self.shut_s

    def flip(self) -> None:
        """The nodes but T send packets for the pod to T by themselves."""
        for node in (self.net.source, self.net.third):
            vias = node.run(lambda: tuple(via.find(one) for one in self.net.target.addresses))
            root = root_of(self.root, node)
            node.run(lambda vias=vias, root=root: flip.ready(vias, root=root))
            for address in self.pod.addresses:
                assert node.run(
                    lambda address=address, vias=vias, root=root: flip.point(
                        address, vias, 1, root=root
                    )
                )

    def settle(self) -> None:
        """The old sandbox goes, and its hold with it."""
        self.net.source.remove_pod(self.pod)
        self.net.source.run(self.hold.remove)

    def forwarded(self) -> None:
        assert self.net.source.run(lambda: self.hold.wait_forwarded(5))
        assert self.hold.phase is Phase.FORWARD
        assert self.hold.counters.lost_packets == 0


def root_of(root: Path, node: Place) -> Path:
    """Every node has pins of its own."""
    (root / node.netns).mkdir(exist_ok=True)
    return root / node.netns


@contextmanager
def prepared_move(net: World, root: Path) -> Iterator[Move]:
    source, target = net.source, net.target
    pod, heir = source.add_pod(), target.add_pod()
    vias = source.run(lambda: tuple(via.find(one) for one in target.addresses))
    others = (*source.addresses, *net.third.addresses)
    backward = target.run(lambda: tuple(via.find(one) for one in others))
    source.run(lambda: flip.ready(vias, root=root_of(root, source)))
    target.run(lambda: flip.ready(backward, root=root_of(root, target)))
    hold = source.run(lambda: Hold.create("s", pod.netns_path, pod.addresses, root=root))
    both = (*heir.addresses, *pod.addresses)
    heirs = target.run(lambda: Hold.create("t", heir.netns_path, both, root=root))
    target.run(heirs.arm)
    prepared = target.run(lambda: addresses.prepare(heir.netns_path, pod.addresses, heir.addresses))
    source.run(lambda: hold.aim(*vias))
    target.run(lambda: flip.expect(prepared, 1, root=root_of(root, target)))
    try:
        yield Move(net, root, pod, heir, hold, heirs, prepared, vias)
    finally:
        source.run(hold.remove)
        target.run(heirs.remove)
        for node in net.nodes:
            node.run(lambda node=node: flip.remove_all(root=root_of(root, node)))
            assert node.run(routes.listed) == []
            assert not (root_of(root, node) / reroute.PIN_FOLDER).exists()


def receive_all(receiver: socket.socket, data: bytes) -> None:
    received = bytearray()
    while len(received) < len(data) and (piece := receiver.recv(1 << 20)):
        received += piece
    assert hashlib.sha256(received).digest() == hashlib.sha256(data).digest()


def exchange(sender: socket.socket, receiver: socket.socket, data: bytes) -> None:
    """Sends from another thread, and requires every byte at the other end."""
    thread = threading.Thread(target=sender.sendall, args=(data,))
    thread.start()
    receive_all(receiver, data)
    thread.join()
