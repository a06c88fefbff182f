# SPDX-License-Identifier: Apache-2.0
"""The activity programs, run by the kernel on built frames: verdict and counts, no device."""

from __future__ import annotations

import errno
import time
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from shim._native import Activity, Direction, Program
from shim.errors import NativeError
from tests.bpf.packets import (
    ETH_P_8021AD,
    ETH_P_8021Q,
    ETH_P_ARP,
    ETH_P_IP,
    ETH_P_IPV6,
    ethernet,
    ipv4,
    ipv6,
)

XDP_PASS = 2
TC_ACT_UNSPEC = 0xFFFFFFFF
PASSES = {Program.XDP: XDP_PASS, Program.TC: TC_ACT_UNSPEC}

POD4, PEER4, POD6, PEER6 = "10.1.0.5", "192.0.2.7", "fd00::5", "2001:db8::7"
NOTHING = Direction(0, 0, 0)
BODY = b"x" * 40


@dataclass(frozen=True)
class Case:
    """A frame and what is seen of the watched pod addresses afterwards.

    ``cut`` marks frames that end inside a header: some kernels refuse to run a tc program on them.
    """

    what: str
    frame: bytes
    address: str
    received: int = 0
    sent: int = 0
    cut: bool = False


CASES = [
    Case("IPv4 to the pod", ethernet(ipv4(PEER4, POD4, BODY), ETH_P_IP), POD4, received=1),
    Case("IPv4 from the pod", ethernet(ipv4(POD4, PEER4, BODY), ETH_P_IP), POD4, sent=1),
    Case("IPv4 of the pod to itself", ethernet(ipv4(POD4, POD4), ETH_P_IP), POD4, 1, 1),
    Case(
        "IPv4 with options",
        ethernet(ipv4(PEER4, POD4, BODY, options=b"\x01" * 8), ETH_P_IP),
        POD4,
        received=1,
    ),
    Case("IPv6 to the pod", ethernet(ipv6(PEER6, POD6, BODY), ETH_P_IPV6), POD6, received=1),
    Case("IPv6 from the pod", ethernet(ipv6(POD6, PEER6, BODY), ETH_P_IPV6), POD6, sent=1),
    Case(
        "IPv6 with an extension header",
        ethernet(ipv6(PEER6, POD6, BODY, next_header=0), ETH_P_IPV6),
        POD6,
        received=1,
    ),
    Case("IPv4 among strangers", ethernet(ipv4(PEER4, "10.1.0.6", BODY), ETH_P_IP), POD4),
    Case("IPv6 among strangers", ethernet(ipv6(PEER6, "fd00::6", BODY), ETH_P_IPV6), POD6),
    Case(
        "an IPv6 address that ends as the pod's IPv4 address does",
        ethernet(ipv6(PEER6, "fd00::a01:5", BODY), ETH_P_IPV6),
        POD4,
    ),
    Case(
        "one VLAN tag",
        ethernet(ipv4(PEER4, POD4, BODY), ETH_P_IP, (ETH_P_8021Q, 7)),
        POD4,
        received=1,
    ),
    Case(
        "two VLAN tags",
        ethernet(ipv6(PEER6, POD6, BODY), ETH_P_IPV6, (ETH_P_8021AD, 7), (ETH_P_8021Q, 8)),
        POD6,
        received=1,
    ),
    Case(
        "three VLAN tags are nobody's",
        ethernet(ipv4(PEER4, POD4, BODY), ETH_P_IP, *[(ETH_P_8021Q, n) for n in (1, 2, 3)]),
        POD4,
    ),
    Case("ARP", ethernet(b"\0\1\x08\0\6\4\0\1" + bytes(20), ETH_P_ARP), POD4),
    Case("IPv4 cut in its header", ethernet(ipv4(PEER4, POD4)[:19], ETH_P_IP), POD4, cut=True),
    Case("IPv6 cut in its header", ethernet(ipv6(PEER6, POD6)[:39], ETH_P_IPV6), POD6, cut=True),
    Case("cut in the VLAN tag", ethernet(b"", ETH_P_8021Q)[:14] + b"\0\7", POD4, cut=True),
    Case("version 6 under IPv4's EtherType", ethernet(ipv6(PEER6, POD6), ETH_P_IP), POD6),
    Case("version 4 under IPv6's EtherType", ethernet(ipv4(PEER4, POD4, BODY), ETH_P_IPV6), POD4),
    Case(
        "an IPv4 header of fewer than five words",
        ethernet(b"\x44" + ipv4(PEER4, POD4, BODY)[1:], ETH_P_IP),
        POD4,
    ),
    Case("nothing behind the Ethernet header", ethernet(b"", ETH_P_IP), POD4, cut=True),
]


@pytest.mark.parametrize("program", list(Program), ids=lambda program: program.name)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
def test_verdict_and_counts(activity: Activity, program: Program, case: Case) -> None:
    for address in (POD4, POD6):
        activity.watch(ip_address(address))
    before_ns = time.monotonic_ns()
    try:
        verdict = activity.test_run(program, case.frame)
    except NativeError as error:
        if error.errno_value == errno.EINVAL and program is Program.TC and case.cut:
            pytest.skip("this kernel runs no tc program on a frame this short")
        raise
    after_ns = time.monotonic_ns()

    assert verdict == PASSES[program]
    record = activity.read(ip_address(case.address))
    for seen, expected in ((record.received, case.received), (record.sent, case.sent)):
        assert seen.packets == expected
        assert seen.byte_count == expected * len(case.frame)
        if expected:
            assert before_ns <= seen.last_ns <= after_ns
        else:
            assert seen == NOTHING


def test_counts_add_up_and_a_new_watch_starts_at_zero(activity: Activity) -> None:
    pod = IPv4Address(POD4)
    frames = [ethernet(ipv4(PEER4, POD4, b"x" * size), ETH_P_IP) for size in (20, 200, 900)]
    activity.watch(pod)
    for frame in frames:
        activity.test_run(Program.XDP, frame)
        activity.test_run(Program.TC, frame)
    record = activity.read(pod)
    assert record.received.packets == 6
    assert record.received.byte_count == 2 * sum(map(len, frames))

    activity.unwatch(pod)
    activity.test_run(Program.XDP, frames[0])
    activity.watch(pod)
    assert activity.read(pod).received == NOTHING


def test_an_unwatched_address_is_told(activity: Activity) -> None:
    for call in (activity.read, activity.unwatch):
        with pytest.raises(NativeError, match="not watched") as caught:
            call(IPv6Address(POD6))
        assert caught.value.errno_value == errno.ENOENT


def test_a_watched_address_is_not_reset_by_a_second_watch(activity: Activity) -> None:
    pod = IPv4Address(POD4)
    activity.watch(pod)
    activity.test_run(Program.XDP, ethernet(ipv4(PEER4, POD4, BODY), ETH_P_IP))
    with pytest.raises(NativeError, match="already watched") as caught:
        activity.watch(pod)
    assert caught.value.errno_value == errno.EEXIST
    assert activity.read(pod).received.packets == 1


def test_a_full_map_is_told_and_keeps_what_it_has(activity: Activity) -> None:
    first = IPv4Address("10.2.0.0")
    watched = 0
    with pytest.raises(NativeError, match="no more fit") as caught:
        for number in range(1 << 16):
            activity.watch(first + number)
            watched += 1
    assert caught.value.errno_value == errno.E2BIG
    assert watched == 4096
    assert activity.read(first).received == NOTHING


def test_after_close_nothing_is_called(activity: Activity) -> None:
    activity.close()
    with pytest.raises(ValueError, match="closed"):
        activity.read(IPv4Address(POD4))
    activity.close()
