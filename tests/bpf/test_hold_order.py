# SPDX-License-Identifier: Apache-2.0
"""The order of what a hold lets go: nothing overtakes, whichever CPU it comes from."""

from __future__ import annotations

import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from shim._native_hold import Cause, Phase
from shim.network import plug
from shim.network.hold import Hold
from tests.bpf.cpus import CPUS, on_cpu
from tests.bpf.hold_net import PATIENCE_S, Net, readable, until
from tests.compare import assert_in_order

pytestmark = pytest.mark.root

FAMILIES = pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["v4", "v6"])
OVER_CPUS = pytest.mark.skipif(
    len(CPUS) < 2 or not plug.keeps_order_over_cpus(),
    reason="needs two CPUs, and Linux 6.18 for order over all of them",
)
HELD_S = 0.5
DATAGRAMS = 5000

# What the slow receiver compares before a slow packet is its own: some 300 us of a CPU.
SLOW, QUICK = b"s", b"q"
FILTERS, WORDS = 2000, 80
SLOW_PACKETS = 8  # as many as the kernel takes out of a device before it delivers them
ROUNDS = 20


def datagram(number: int, kind: bytes = QUICK) -> bytes:
    return kind + bytes(3) + struct.pack("!I", number) + bytes(4 * WORDS)


def receive(server: socket.socket, count: int) -> list[int]:
    return [struct.unpack_from("!I", server.recv(2048), 4)[0] for _ in range(count)]


@FAMILIES
def test_thousands_of_datagrams_arrive_in_order(hold: Hold, pods: Net, family: int) -> None:
    with (
        pods.pod_socket(family, socket.SOCK_DGRAM) as server,
        pods.client_socket(family, socket.SOCK_DGRAM) as client,
    ):
        hold.arm()
        for number in range(DATAGRAMS):
            client.sendto(datagram(number), server.getsockname()[:2])
        until(lambda: hold.counters.held_packets == DATAGRAMS, "all are held")
        event = hold.take_event()
        assert event is not None
        assert event.cause is Cause.UDP
        server.settimeout(HELD_S)
        with pytest.raises(TimeoutError):
            server.recv(1)
        hold.release()
        server.settimeout(PATIENCE_S)
        assert_in_order(receive(server, DATAGRAMS), DATAGRAMS)
        assert hold.counters.lost_packets == 0


def test_later_datagrams_do_not_overtake_and_then_pass_directly(hold: Hold, pods: Net) -> None:
    with (
        pods.pod_socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
        pods.client_socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        address = server.getsockname()
        hold.arm()
        for number in range(1000):
            client.sendto(datagram(number), address)
        hold.release()
        for number in range(1000, 2000):
            client.sendto(datagram(number), address)
        assert_in_order(receive(server, 2000), 2000)

        def passes() -> bool:
            client.sendto(datagram(0), address)
            server.recv(2048)
            return hold.phase is Phase.PASS

        until(passes, "packets pass directly")
        before = hold.counters.in_packets
        client.sendto(datagram(0), address)
        server.recv(2048)
        assert hold.counters.in_packets == before


@OVER_CPUS
def test_a_sender_on_another_cpu_does_not_overtake(hold: Hold, pods: Net) -> None:
    total = 40_000

    def send(client: socket.socket, address: tuple[str, int]) -> None:
        with on_cpu(1):
            for number in range(total):
                client.sendto(struct.pack("!II", 0, number), address)

    with (
        pods.pod_socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
        pods.client_socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        sender = threading.Thread(target=send, args=(client, server.getsockname()))
        held = 0
        with on_cpu(0):
            try:
                sender.start()
                while sender.is_alive():
                    hold.arm()
                    readable(hold, 0.05)
                    hold.release()
                    until(lambda: hold.counters.held_packets == 0, "the plug is empty")
                    counters = hold.counters
                    assert counters.lost_packets == 0
                    held += counters.in_packets
            finally:
                sender.join()
        assert held > 0
        assert_in_order(receive(server, total), total)


@pytest.fixture
def slow_receiver(pods: Net) -> None:
    """Has the pod's kernel spend much time on each packet that begins with SLOW."""
    words = " ".join(f"match u32 0 0 at {4 * word}" for word in range(WORDS))
    quick = f"match u8 {ord(QUICK)} 0xff at 28"  # behind the headers of IP and UDP
    never = f"{words} match u32 0x5ca1ab1e 0xffffffff at {4 * WORDS}"
    lines = ["qdisc add dev eth0 clsact"]
    lines += [f"filter add dev eth0 ingress prio 1 protocol ip u32 {quick} flowid 1:1"]
    lines += [f"filter add dev eth0 ingress prio 2 protocol ip u32 {never} flowid 1:1"] * FILTERS
    command = ["tc", "-n", pods.pod_netns, "-batch", "-"]
    subprocess.run(command, input="\n".join(lines), text=True, check=True, timeout=120)


@contextmanager
def slow_release(hold: Hold, server: socket.socket, client: socket.socket) -> Iterator[None]:
    """In it, the other CPU has counted all out of the plug, and has yet to deliver the last."""

    def release() -> None:
        with on_cpu(0):
            hold.release()

    for number in range(SLOW_PACKETS):
        client.sendto(datagram(number, SLOW), server.getsockname())
    until(lambda: hold.counters.held_packets == SLOW_PACKETS, "all are held")
    releaser = threading.Thread(target=release)
    releaser.start()
    give_up_s = time.monotonic() + PATIENCE_S
    while hold.counters.held_packets:
        assert time.monotonic() < give_up_s
    yield
    releaser.join()


@OVER_CPUS
@pytest.mark.usefixtures("slow_receiver")
def test_what_another_cpu_has_yet_to_deliver_is_not_overtaken(hold: Hold, pods: Net) -> None:
    with (
        pods.pod_socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
        pods.client_socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
        on_cpu(1),
    ):
        for _ in range(ROUNDS):
            hold.arm()
            with slow_release(hold, server, client):
                time.sleep(0.0001)
                client.sendto(datagram(SLOW_PACKETS), server.getsockname())
            assert_in_order(receive(server, SLOW_PACKETS + 1), SLOW_PACKETS + 1)


@OVER_CPUS
@pytest.mark.usefixtures("slow_receiver")
def test_arming_again_lets_nothing_overtake(
    hold: Hold, pods: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two sleeps packets pass directly, and not before the last sleep's are delivered."""
    close = plug.close
    with (
        pods.pod_socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
        pods.client_socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
        on_cpu(1),
    ):

        def close_later(near_ifindex: int, limit_bytes: int) -> None:
            client.sendto(datagram(SLOW_PACKETS), server.getsockname())
            close(near_ifindex, limit_bytes)

        for _ in range(ROUNDS):
            hold.arm()
            with slow_release(hold, server, client), monkeypatch.context() as patch:
                patch.setattr(plug, "close", close_later)
                hold.arm()
            assert_in_order(receive(server, SLOW_PACKETS + 1), SLOW_PACKETS + 1)
            assert hold.counters.in_packets == 0
            hold.release()
