# SPDX-License-Identifier: Apache-2.0
"""The choices at a hold's making, on a real veth: what wakes, how much is kept, a shared device."""

from __future__ import annotations

import socket
import struct
from ipaddress import ip_address
from pathlib import Path

import pytest

from shim._native_hold import Cause
from shim.network.hold import Hold
from tests.bpf.hold_net import PATIENCE_S, Net, inside, ip, readable, until
from tests.compare import assert_in_order

pytestmark = pytest.mark.root


def test_echo_requests_wake_only_where_that_is_wanted(world: tuple[Net, Path]) -> None:
    made, root = world
    for wanted in (True, False):
        with (
            Hold.create(
                "icmp", made.netns_path, made.addresses, root=root, wake_on_icmp=wanted
            ) as hold,
            made.client_socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
        ):
            hold.arm()
            _echo_request(made)
            until(lambda hold=hold: hold.counters.in_packets == 1, "the echo request is held")
            if wanted:
                assert readable(hold, PATIENCE_S)
            client.sendto(b"x", (made.pod4, 9))
            assert readable(hold, PATIENCE_S)
            event = hold.take_event()
            assert event is not None
            assert event.cause is (Cause.ICMP if wanted else Cause.UDP)
            hold.remove()


def _echo_request(made: Net) -> None:
    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
            raw.sendto(struct.pack("!BBHHH", 8, 0, 0xF7FF, 0, 0), (made.pod4, 0))

    inside(made.client_netns, send)


def test_over_the_bound_the_oldest_stay_and_the_rest_is_counted(world: tuple[Net, Path]) -> None:
    made, root = world
    with (
        Hold.create("bound", made.netns_path, made.addresses, root=root, max_packets=100) as hold,
        made.pod_socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
        made.client_socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        hold.arm()
        for number in range(150):
            client.sendto(struct.pack("!I", number), server.getsockname())
        until(lambda: hold.counters.over_packets == 50, "the bound is met")
        assert hold.counters.held_packets == 100
        hold.release()
        seen = [struct.unpack("!I", server.recv(200))[0] for _ in range(100)]
        assert_in_order(seen, 100)
        assert hold.counters.lost_packets == 50
        hold.remove()


def test_a_shared_device_is_held_for_the_pods_addresses_alone(world: tuple[Net, Path]) -> None:
    made, root = world
    other4 = str(ip_address(made.pod4) + 10)
    ip("-n", made.pod_netns, "address", "add", f"{other4}/24", "dev", "eth0")
    with (
        Hold.create(
            "shared",
            made.netns_path,
            [ip_address(made.pod4)],
            root=root,
            device=made.pod_link,
        ) as hold,
        made.pod_socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
        made.socket_of(made.pod_netns, socket.AF_INET, socket.SOCK_DGRAM) as other,
        made.client_socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        other.bind((other4, 0))
        hold.arm()
        for number in range(500):
            client.sendto(struct.pack("!I", number), server.getsockname())
        client.sendto(b"other", other.getsockname())
        data, sender = other.recvfrom(100)
        assert data == b"other"
        other.sendto(b"answer", sender)
        assert client.recv(100) == b"answer"
        hold.release()
        seen = [struct.unpack("!I", server.recv(200))[0] for _ in range(500)]
        assert_in_order(seen, 500)
        hold.remove()
