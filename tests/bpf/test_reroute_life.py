# SPDX-License-Identifier: Apache-2.0
"""A move that is undone, killed half way, goes on to a third node, or comes back; great loads."""

from __future__ import annotations

import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from shim._native_hold import Phase
from shim._native_reroute import XdpMode
from shim.errors import Refused
from shim.network import addresses, flip, plug, via
from shim.network.hold import Hold
from tests.bpf.hold_net import bpf_root, until
from tests.bpf.reroute_move import Move, exchange, prepared_move, root_of
from tests.bpf.reroute_net import Node, Place, world
from tests.bpf.tcp_move import put, take, wake

pytestmark = pytest.mark.root

PORT = 7000
# Behind S each veth hands packets to a CPU's backlog of 1,000, emptied late on a crowded machine.
DATAGRAMS = 800
ETHTOOL_STXCSUM = 0x17
DATA = bytes(range(256)) * 4000

# Forwards a hold and dies before or after one of its calls.
FORWARDER = """
import os, signal, sys
from pathlib import Path
from shim.network import hold, plug, via
from shim._native_hold import InstalledHold
from ipaddress import ip_address

root, kill, *nodes = sys.argv[1:]
when, owner, name, count = kill.split(":")
target = {"plug": plug, "installed": InstalledHold}[owner]
original = getattr(target, name)
left = [int(count)]

def call(*arguments, **named):
    left[0] -= 1
    if not left[0] and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    result = original(*arguments, **named)
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    return result

setattr(target, name, call)
hold.Hold("s", Path(root)).forward(*[via.find(ip_address(one)) for one in nodes])
"""


@pytest.fixture
def move(tmp_path: Path) -> Iterator[Move]:
    with (
        world() as net,
        bpf_root(tmp_path / "bpf") as root,
        prepared_move(net, root) as made,
    ):
        yield made


def counter_at(place: Place, address: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    made = place.socket(family, socket.SOCK_DGRAM)
    made.bind((address, PORT))
    return made


def client_of(place: Place, address: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    made = place.socket(family, socket.SOCK_DGRAM)
    made.connect((address, PORT))
    return made


def send(client: socket.socket, numbers: range) -> None:
    for number in numbers:
        client.send(struct.pack("!I", number))


def receive(server: socket.socket, count: int) -> list[int]:
    return [struct.unpack("!I", server.recv(100))[0] for _ in range(count)]


def connected(client: Place, pod: Place) -> tuple[socket.socket, socket.socket]:
    with pod.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind((pod.ipv4, PORT))
        listener.listen()
        one = client.socket(socket.AF_INET, socket.SOCK_STREAM)
        one.connect((pod.ipv4, PORT))
        return one, listener.accept()[0]


def test_a_move_that_is_undone_leaves_the_pod_where_it_was(move: Move) -> None:
    client, server = connected(move.net.outside, move.pod)
    move.shut()
    thread = threading.Thread(target=client.sendall, args=(DATA,))
    thread.start()
    until(lambda: move.hold.counters.held_packets, "it is held")
    move.net.target.run(lambda: addresses.withdraw(move.prepared))
    move.net.source.run(move.hold.release)
    received = 0
    while received < len(DATA):
        received += len(server.recv(1 << 20))
    thread.join()
    exchange(server, client, DATA)
    assert move.hold.counters.forwarded_packets == 0
    assert move.hold.counters.lost_packets == 0


def test_a_forwarded_hold_is_not_armed_again(move: Move) -> None:
    move.shut()
    move.hand_over()
    move.forwarded()
    with pytest.raises(Refused):
        move.net.source.run(move.hold.arm)


@pytest.mark.parametrize(
    "kill",
    [
        "before:installed:set_target:1",
        "after:installed:set_target:1",
        "after:installed:set_target:2",
        "after:plug:send:1",
        "before:installed:set_phase:1",
        "after:installed:set_phase:1",
        "before:plug:opening:1",
        "after:plug:opening:1",
        "before:plug:send:3",
        "after:plug:send:3",
    ],
)
def test_a_forwarding_that_was_killed_is_ended_by_another(move: Move, kill: str) -> None:
    client = client_of(move.net.outside, move.pod.ipv4)
    server = counter_at(move.heir, move.pod.ipv4)
    move.shut()
    send(client, range(100))
    until(lambda: move.hold.counters.held_packets == 100, "all are held")
    move.commit()
    move.net.target.run(move.heirs_hold.release)
    arguments = [str(move.root), kill, *map(str, move.net.target.addresses)]
    done = move.net.source.run(
        lambda: subprocess.run(
            [sys.executable, "-c", FORWARDER, *arguments], check=False, timeout=60
        )
    )
    assert done.returncode == -signal.SIGKILL
    send(client, range(100, 200))  # must not overtake
    with Hold("s", move.root) as found:
        assert move.net.source.run(lambda: found.is_complete)
        assert found.phase in (Phase.HELD, Phase.FORWARDING, Phase.FORWARD)
        move.net.source.run(lambda: found.forward(*move.vias))
        assert receive(server, 200) == list(range(200))
        assert move.net.source.run(lambda: found.wait_forwarded(5))
        assert found.targets.keys() == {4, 6}
        assert found.counters.lost_packets == 0


@pytest.mark.parametrize("family", [4, 6])
def test_a_burst_of_small_datagrams_is_forwarded_in_order(move: Move, family: int) -> None:
    address = move.pod.ipv4 if family == 4 else move.pod.ipv6
    client = client_of(move.net.outside, address)
    server = counter_at(move.heir, address)
    move.shut()
    send(client, range(DATAGRAMS))
    until(lambda: move.hold.counters.held_packets == DATAGRAMS, "all are held")
    move.commit()
    move.hand_over()
    move.forwarded()
    assert receive(server, DATAGRAMS) == list(range(DATAGRAMS))


def test_a_later_epoch_is_not_undone_by_an_earlier(move: Move) -> None:
    source, root = move.net.source, root_of(move.root, move.net.source)
    address = ip_address(move.pod.ipv4)
    onwards = source.run(lambda: (via.find(ip_address(move.net.third.ipv4)),))
    assert source.run(lambda: flip.tentative(address, onwards, 3, 100, root=root))
    assert source.run(lambda: flip.listed(root=root))[0].tentative
    assert source.run(lambda: flip.point(address, onwards, 3, root=root))
    assert not source.run(lambda: flip.point(address, move.vias, 2, root=root))
    assert not source.run(lambda: flip.clear(address, 2, root=root))
    (listed,) = source.run(lambda: flip.listed(root=root))
    assert (listed.next_hop, listed.epoch, listed.tentative) == (move.net.third.ipv4, 3, False)
    assert source.run(lambda: flip.clear(address, 3, root=root))
    assert source.run(lambda: flip.listed(root=root)) == []


def _arrive(move: Move, node: Node, epoch: int) -> tuple[Place, Hold, addresses.Prepared]:
    """A new home for the pod on a node, with a shut hold; everybody else is pointed at it."""
    heir, root = node.add_pod(), root_of(move.root, node)
    both = (*heir.addresses, *move.pod.addresses)
    hold = node.run(lambda: Hold.create(f"e{epoch}", heir.netns_path, both, root=move.root))
    node.run(hold.arm)
    prepared = node.run(
        lambda: addresses.prepare(heir.netns_path, move.pod.addresses, heir.addresses)
    )
    node.run(lambda: flip.expect(prepared, epoch, root=root))
    return heir, hold, prepared


def _hand_over(move: Move, of: Hold, to: Node, there: tuple[Place, Hold, addresses.Prepared],
               epoch: int, moved: socket.socket) -> socket.socket:  # fmt: skip
    """From the node that has the pod's hold to another; all nodes are flipped."""
    at = next(node for node in move.net.nodes if node is not to and _has(node, of))
    ways = at.run(lambda: tuple(via.find(one) for one in to.addresses))
    at.run(of.arm)
    connection = take(moved)
    heir, hold, prepared = there
    new = put(heir, connection)
    to.run(lambda: addresses.expose(prepared))
    hold.speak()
    wake(new, connection)
    to.run(hold.release)
    at.run(lambda: of.forward(*ways))
    assert at.run(lambda: of.wait_forwarded(5))
    for node in move.net.nodes:
        if node is to:
            ways_of_node = prepared.via()
        else:
            ways_of_node = node.run(lambda: tuple(via.find(one) for one in to.addresses))
        root = root_of(move.root, node)
        for address in move.pod.addresses:
            assert node.run(
                lambda address=address, ways=ways_of_node, root=root: flip.point(
                    address, ways, epoch, root=root
                )
            )
    return new


def _has(node: Node, hold: Hold) -> bool:
    index = hold.settings.pod_ifindex
    return bool(
        node.run(lambda: index in {i for i, name in socket.if_nameindex() if "veth" in name})
    ) and (hold.hold_id in _homes.get(node.netns, ()))


_homes: dict[str, tuple[str, ...]] = {}


def test_a_pod_goes_on_to_a_third_node_and_comes_back(move: Move) -> None:
    source, target, third = move.net.nodes
    _homes.clear()
    _homes.update({source.netns: ("s", "e3"), target.netns: ("t",), third.netns: ("e2",)})
    everybody = {
        node.netns: node.run(
            lambda node=node: tuple(
                via.find(one)
                for other in move.net.nodes
                if other is not node
                for one in other.addresses
            )
        )
        for node in move.net.nodes
    }
    for node in move.net.nodes:
        root = root_of(move.root, node)
        node.run(lambda node=node, root=root: flip.ready(everybody[node.netns], root=root))
    client, server = connected(move.net.outside, move.pod)
    exchange(client, server, DATA)
    at_t = _hand_over(
        move, move.hold, target, (move.heir, move.heirs_hold, move.prepared), 1, server
    )
    exchange(client, at_t, DATA)
    on_third = _arrive(move, third, 2)
    back = None
    try:
        at_n = _hand_over(move, move.heirs_hold, third, on_third, 2, at_t)
        exchange(client, at_n, DATA)
        exchange(at_n, client, DATA)
        back = _arrive(move, source, 3)  # beside the old sandbox, whose hold still forwards
        at_s = _hand_over(move, on_third[1], source, back, 3, at_n)
        exchange(client, at_s, DATA)
        exchange(at_s, client, DATA)
        assert move.net.outside.counter("Tcp.EstabResets") == 0
        at_s.close()
    finally:
        third.run(on_third[1].remove)
        if back is not None:
            source.run(back[1].remove)


@pytest.mark.parametrize("offload", [True, False], ids=["partial-checksums", "whole-checksums"])
def test_xdp_on_the_uplink_does_no_harm(move: Move, offload: bool) -> None:
    """Generic mode, for a client outside: large segments and checksums as its card makes them."""
    if not offload:
        for place, device in ((move.net.outside, "eth0"), (move.net.router, "eth0")):
            place.run(lambda device=device: plug._set_feature(device, ETHTOOL_STXCSUM, 0))
    source, root = move.net.source, root_of(move.root, move.net.source)
    source.run(lambda: flip.ready(move.vias, root=root, xdp=XdpMode.GENERIC))
    client, server = connected(move.net.outside, move.pod)
    move.shut()
    connection = take(server)
    moved = put(move.heir, connection)
    move.commit()
    wake(moved, connection)
    move.hand_over()
    move.forwarded()
    move.flip()
    exchange(client, moved, DATA * 4)
    exchange(moved, client, DATA)
    (listed,) = (
        one for one in source.run(lambda: flip.listed(root=root)) if one.address == move.pod.ipv4
    )
    assert listed.packets > 10
    assert move.heir.counter("Tcp.InCsumErrors") == 0
