# SPDX-License-Identifier: Apache-2.0
"""A pod's connections move from S to T under traffic, for clients wherever they are."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bpf.hold_net import bpf_root, until
from tests.bpf.reroute_move import Move, exchange, prepared_move, receive_all
from tests.bpf.reroute_net import world
from tests.bpf.tcp_move import put, take, wake

pytestmark = pytest.mark.root

FAMILIES = pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["v4", "v6"])
PLACES = ["outside", "third", "third-pod", "source", "source-pod", "target", "target-pod"]
DATAGRAMS = 400
RTO_MIN_S = 0.2  # TCP_RTO_MIN of the kernel: a longer stall makes timers fire, on any network


@pytest.fixture(params=["link", "tunnel"])
def move(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Move]:
    routed = request.param == "tunnel"
    with (
        world(routed=routed) as net,
        bpf_root(tmp_path / "bpf") as root,
        prepared_move(net, root) as made,
    ):
        yield made


@FAMILIES
@pytest.mark.parametrize("where", PLACES)
def test_a_connection_and_datagrams_go_on_at_t(move: Move, family: int, where: str) -> None:
    place = move.client(where)
    listener = move.pod.socket(family, socket.SOCK_STREAM)
    listener.bind((move.pod.address(family), 7000))
    listener.listen()
    client = place.socket(family, socket.SOCK_STREAM)
    client.connect((move.pod.address(family), 7000))
    server, _ = listener.accept()
    listener.close()
    datagrams = place.socket(family, socket.SOCK_DGRAM)
    datagrams.connect((move.pod.address(family), 7001))
    resets = place.counter("Tcp.EstabResets")
    timeouts = place.counter("TcpExt.TCPTimeouts")

    move.shut()
    connection = take(server)
    data = bytes(range(256)) * 4000
    sender = threading.Thread(target=client.sendall, args=(data,))
    sender.start()
    for number in range(DATAGRAMS):
        datagrams.send(struct.pack("!I", number))
    until(lambda: move.hold.counters.held_packets >= DATAGRAMS, "the packets are held")
    moved = put(move.heir, connection)
    counter = move.heir.socket(family, socket.SOCK_DGRAM)
    counter.bind((move.pod.address(family), 7001))
    move.commit()
    wake(moved, connection)
    move.hand_over()

    receive_all(moved, data)
    sender.join()
    seen = [struct.unpack("!I", counter.recv(100))[0] for _ in range(DATAGRAMS)]
    assert seen == list(range(DATAGRAMS))
    exchange(moved, client, data)
    move.forwarded()
    for step in (move.flip, move.settle):
        step()
        exchange(client, moved, data)
        exchange(moved, client, data)
        datagrams.send(b"again")
        assert counter.recv(100) == b"again"
    assert place.counter("Tcp.EstabResets") == resets
    if move.stall_s < RTO_MIN_S:
        assert place.counter("TcpExt.TCPTimeouts") == timeouts
    assert move.heir.counter("Tcp.InCsumErrors") == 0
    for one in (client, moved, datagrams, counter):
        one.close()
