# SPDX-License-Identifier: Apache-2.0
"""The hold on a real veth: real sockets of a client and a pod that speak while it is held."""

from __future__ import annotations

import socket
import statistics
import struct
import threading
import time

import pytest

from shim._native_hold import Cause
from shim.network.hold import Hold
from tests.bpf.hold_net import PATIENCE_S, Net, ip, readable, until
from tests.compare import assert_same_bytes

pytestmark = pytest.mark.root

FAMILIES = pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["v4", "v6"])
TCP_INFO_TOTAL_RETRANS_AT = 100  # struct tcp_info, tcpi_total_retrans
HELD_S = 0.5
SYN_TIMER_S = 1.0  # TCP_TIMEOUT_INIT of the kernel
DATAGRAMS = 5000


def retransmissions(connected: socket.socket) -> int:
    info = connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    return int(struct.unpack_from("=I", info, TCP_INFO_TOTAL_RETRANS_AT)[0])


def receive(receiver: socket.socket, byte_count: int) -> bytearray:
    received = bytearray()
    while len(received) < byte_count and (piece := receiver.recv(1 << 20)):
        received += piece
    return received


def exchange(sender: socket.socket, receiver: socket.socket, data: bytes) -> None:
    """Sends from another thread, and requires every byte at the other end."""
    thread = threading.Thread(target=sender.sendall, args=(data,))
    thread.start()
    received = receive(receiver, len(data))
    thread.join()
    assert_same_bytes(received, data)


@FAMILIES
def test_a_syn_is_held_and_then_answered_without_another(
    hold: Hold, pods: Net, family: int
) -> None:
    with (
        pods.pod_socket(family, socket.SOCK_STREAM) as listener,
        pods.client_socket(family, socket.SOCK_STREAM) as client,
    ):
        listener.setblocking(False)
        hold.arm()
        assert not readable(hold, 0)
        client.setblocking(False)
        begun_s = time.monotonic()
        assert client.connect_ex(listener.getsockname()[:2]) != 0
        assert readable(hold, PATIENCE_S)
        event = hold.take_event()
        assert event is not None
        assert event.cause is Cause.TCP_SYN
        assert str(event.source) == pods.client(family)
        assert str(event.destination) == pods.pod(family)
        assert event.destination_port == listener.getsockname()[1]
        assert event.time_ns <= time.monotonic_ns()
        assert not readable(hold, HELD_S)  # one event is enough, and the SYN stays here
        with pytest.raises(BlockingIOError):
            listener.accept()
        hold.release()
        listener.settimeout(PATIENCE_S)
        accepted, _ = listener.accept()
        # A crowded machine may take longer than the SYN's own timer; then the client sends another.
        if time.monotonic() - begun_s < SYN_TIMER_S:
            assert retransmissions(client) == 0
        client.settimeout(PATIENCE_S)
        with accepted:
            exchange(client, accepted, b"question" * 1000)
            exchange(accepted, client, b"answer" * 1000)


@FAMILIES
def test_data_of_a_connection_waits_and_arrives(hold: Hold, pods: Net, family: int) -> None:
    client, server = pods.connection(family)
    with client, server:
        exchange(client, server, b"before")
        hold.arm()
        client.sendall(b"asleep?")
        assert readable(hold, PATIENCE_S)
        event = hold.take_event()
        assert event is not None
        assert event.cause is Cause.TCP_DATA
        server.settimeout(HELD_S)
        with pytest.raises(TimeoutError):
            server.recv(1)
        hold.release()
        server.settimeout(PATIENCE_S)
        assert server.recv(100) == b"asleep?"
        exchange(server, client, b"awake" * 1000)
        client.shutdown(socket.SHUT_WR)
        assert server.recv(1) == b""


@FAMILIES
def test_large_segments_survive_the_plug(hold: Hold, pods: Net, family: int) -> None:
    """What a local stack sends has no checksum yet, and is larger than any packet on a wire."""
    pods.keep_speed_when_idle()
    client, server = pods.connection(family)
    before = pods.pod_counter("Tcp", "InCsumErrors")
    data = bytes(range(256)) * (1 << 13)
    with client, server:
        for _ in range(6):
            exchange(client, server, data)  # after it the client sends much before an answer
            hold.arm()
            thread = threading.Thread(target=client.sendall, args=(data,))
            thread.start()
            until(lambda: hold.counters.in_bytes > len(data) // 16, "large segments are held")
            hold.release()
            received = receive(server, len(data))
            thread.join()
            assert_same_bytes(received, data)
            assert hold.counters.lost_packets == 0
            assert hold.counters.looped == 0
        assert pods.pod_counter("Tcp", "InCsumErrors") == before


def test_what_the_pods_kernel_says_in_its_sleep_stays_inside(hold: Hold, pods: Net) -> None:
    client, server = pods.connection(socket.AF_INET)
    with client, server, pods.client_socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        hold.arm()
        # A closed socket with a linger of 0 is a reset.
        server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 0))
        server.close()
        until(lambda: hold.counters.shielded_resets == 1, "the reset is dropped")
        datagrams.settimeout(PATIENCE_S)
        datagrams.connect((pods.pod4, 9))  # nobody is there
        datagrams.send(b"x")
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.recv(1)
        hold.release()
        # Awake, its kernel may speak: the datagram has no socket.
        with pytest.raises(ConnectionRefusedError):
            datagrams.recv(1)
        assert hold.counters.shielded_packets >= 1


def test_keepalives_and_resets_do_not_wake(hold: Hold, pods: Net) -> None:
    client, server = pods.connection(socket.AF_INET)
    with client, server:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1)
        hold.arm()
        until(lambda: hold.counters.in_packets >= 1, "a keepalive is held")
        held = hold.counters.in_packets
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 0))
        client.close()
        until(lambda: hold.counters.in_packets > held, "the reset is held")
        hold.release()
        with pytest.raises(ConnectionResetError):
            server.recv(1)
        assert hold.take_event() is None


def test_after_a_wake_that_failed_the_next_packet_wakes(hold: Hold, pods: Net) -> None:
    with (
        pods.pod_socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
        pods.client_socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        hold.arm()
        client.sendto(b"first", server.getsockname())
        assert readable(hold, PATIENCE_S)
        hold.arm()
        assert readable(hold, 0)  # nobody has taken it
        assert hold.take_event() is not None
        hold.arm()
        assert not readable(hold, 0)
        client.sendto(b"second", server.getsockname())
        assert readable(hold, PATIENCE_S)
        assert hold.counters.held_packets == 2
        hold.release()
        assert [server.recv(100), server.recv(100)] == [b"first", b"second"]


@FAMILIES
def test_neighbours_are_answered_in_the_sleep(hold: Hold, pods: Net, family: int) -> None:
    with (
        pods.pod_socket(family, socket.SOCK_DGRAM) as server,
        pods.client_socket(family, socket.SOCK_DGRAM) as client,
    ):
        hold.arm()
        ip("-n", pods.client_netns, "neighbour", "flush", "dev", "eth0")
        client.sendto(b"who has you?", server.getsockname()[:2])
        # The datagram left, so its neighbour was found.
        assert readable(hold, PATIENCE_S)
        hold.release()
        assert server.recv(100) == b"who has you?"


def test_many_sleeps_in_a_row_and_how_long_a_release_takes(
    hold: Hold, pods: Net, capsys: pytest.CaptureFixture[str]
) -> None:
    first_us: list[float] = []
    with (
        pods.pod_socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
        pods.client_socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        for number in range(50):
            hold.arm()
            client.sendto(struct.pack("!I", number), server.getsockname())
            assert readable(hold, PATIENCE_S)
            started_ns = time.monotonic_ns()
            hold.release()
            assert struct.unpack("!I", server.recv(100)) == (number,)
            first_us.append((hold.counters.first_out_ns - started_ns) / 1000)
    first_us.sort()
    with capsys.disabled():
        print(
            f"\nrelease to first packet, us: median {statistics.median(first_us):.0f}, "
            f"p90 {first_us[45]:.0f}, max {first_us[-1]:.0f}"
        )
