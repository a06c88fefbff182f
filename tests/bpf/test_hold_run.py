# SPDX-License-Identifier: Apache-2.0
"""The hold's programs, run by the kernel on built frames: verdicts, wake causes, counts."""

from __future__ import annotations

import json
import secrets
import shutil
import socket
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import pytest

from shim._native_hold import (
    Cause,
    Flag,
    InstalledHold,
    Phase,
    Program,
    Settings,
    install,
    uninstall,
)
from tests.bpf.cpus import CPUS, on_cpu
from tests.bpf.hold_net import bpf_root, ip, node_netns
from tests.bpf.packets import ETH_P_ARP, ETH_P_IP, ETH_P_IPV6, ethernet, ipv4, ipv6

pytestmark = pytest.mark.root

NEXT, SHOT, REDIRECT = 0xFFFFFFFF, 2, 7
MARK = 0x70666864
POD4, PEER4, POD6, PEER6 = "10.1.0.5", "192.0.2.7", "fd00::5", "2001:db8::7"
POD_MAC = bytes.fromhex("020000000001")  # where tests.bpf.packets sends its frames
MAX_PACKETS, MAX_BYTES = 40, 20_000
TCP, ICMP, ICMPV6, FRAGMENT, HOP_BY_HOP, SCTP = 6, 1, 58, 44, 0, 132
FIN, SYN, RST, ACK = 1, 2, 4, 16

# struct pf_hold_counts and PF_HOLD_QUIET_NS of bpf/hold/hold_shared.h
LAST_IN_NS_AT, LAST_OUT_NS_AT = 13 * 8, 15 * 8
QUIET_S = 20.0
PATIENCE_S = 15.0  # less than QUIET_S, more than a crowded machine takes from one line to the next


def tcp(flags: int, payload: bytes = b"") -> bytes:
    return struct.pack("!HHIIBBHHH", 40000, 80, 1, 1, 5 << 4, flags, 1000, 0, 0) + payload


def udp(payload: bytes = b"x") -> bytes:
    return struct.pack("!HHHH", 40000, 53, 8 + len(payload), 0) + payload


def to4(protocol: int, payload: bytes, **changes: str) -> bytes:
    packet = bytearray(ipv4(PEER4, changes.get("destination", POD4), payload))
    packet[9] = protocol
    return ethernet(bytes(packet), ETH_P_IP)


def to6(protocol: int, payload: bytes, **changes: str) -> bytes:
    destination = changes.get("destination", POD6)
    return ethernet(ipv6(PEER6, destination, payload, next_header=protocol), ETH_P_IPV6)


def later_fragment() -> bytes:
    packet = bytearray(ipv4(PEER4, POD4, udp()))
    packet[6:8] = struct.pack("!H", 100)
    return ethernet(bytes(packet), ETH_P_IP)


def elsewhere(frame: bytes, mac: str) -> bytes:
    return bytes.fromhex(mac) + frame[6:]


@dataclass(frozen=True)
class Case:
    """A frame towards the pod, what becomes of it while it is held, and why it wakes."""

    what: str
    frame: bytes
    held: bool = True
    cause: Cause | None = None


ND = struct.pack("!BBH", 135, 0, 0) + bytes(20)
ECHO4, ECHO6 = struct.pack("!BBHHH", 8, 0, 0, 1, 1), struct.pack("!BBHHH", 128, 0, 0, 1, 1)
CASES = [
    Case("SYN", to4(TCP, tcp(SYN)), cause=Cause.TCP_SYN),
    Case("SYN, IPv6", to6(TCP, tcp(SYN)), cause=Cause.TCP_SYN),
    Case("data", to4(TCP, tcp(ACK, b"x")), cause=Cause.TCP_DATA),
    Case("data, IPv6", to6(TCP, tcp(ACK, b"x")), cause=Cause.TCP_DATA),
    Case("FIN", to4(TCP, tcp(FIN | ACK)), cause=Cause.TCP_FIN),
    Case("bare ACK", to4(TCP, tcp(ACK))),
    Case("bare ACK, IPv6", to6(TCP, tcp(ACK))),
    Case("bare ACK, padded to a frame's least length", to4(TCP, tcp(ACK)) + bytes(6)),
    Case("RST", to4(TCP, tcp(RST))),
    Case("RST with data", to6(TCP, tcp(RST | ACK, b"x"))),
    Case("UDP", to4(socket.IPPROTO_UDP, udp()), cause=Cause.UDP),
    Case("UDP, IPv6", to6(socket.IPPROTO_UDP, udp()), cause=Cause.UDP),
    Case("empty UDP", to4(socket.IPPROTO_UDP, udp(b"")), cause=Cause.UDP),
    Case("a later fragment", later_fragment()),
    Case(
        "a first fragment, IPv6",
        to6(FRAGMENT, struct.pack("!BBHI", socket.IPPROTO_UDP, 0, 1, 7) + udp()),
        cause=Cause.UDP,
    ),
    Case(
        "a later fragment, IPv6",
        to6(FRAGMENT, struct.pack("!BBHI", socket.IPPROTO_UDP, 0, 1000 << 3, 7) + udp()),
    ),
    Case(
        "behind hop-by-hop options",
        to6(HOP_BY_HOP, struct.pack("!BB6x", TCP, 0) + tcp(SYN)),
        cause=Cause.TCP_SYN,
    ),
    Case("echo request", to4(ICMP, ECHO4), cause=Cause.ICMP),
    Case("echo request, IPv6", to6(ICMPV6, ECHO6), cause=Cause.ICMP),
    Case("port unreachable", to4(ICMP, struct.pack("!BBHI", 3, 3, 0, 0) + bytes(28))),
    Case("another protocol", to4(SCTP, bytes(12)), cause=Cause.OTHER),
    Case("TCP cut in its header", to4(TCP, tcp(SYN)[:10])),
    Case("a neighbour solicitation", to6(ICMPV6, ND), held=False),
    Case("ARP", ethernet(b"\0\1\x08\0\6\4\0\1" + bytes(20), ETH_P_ARP), held=False),
    Case("to another address of the pod", to4(TCP, tcp(SYN), destination="10.1.0.6")),
    Case("another address, IPv6", to6(TCP, tcp(SYN), destination="fd00::6")),
    Case("broadcast", elsewhere(to4(17, udp()), "ffffffffffff"), held=False),
    Case("multicast", elsewhere(to6(17, udp()), "333300000001"), held=False),
    Case("flooded, another's", elsewhere(to4(TCP, tcp(SYN)), "020000000009"), held=False),
]


@pytest.fixture
def made(tmp_path: Path) -> Iterator[InstalledHold]:
    """Attached to a pair of veths that nobody sends on."""
    with node_netns(f"pf-run-{secrets.token_hex(4)}"), bpf_root(tmp_path / "bpf") as root:
        ip("link", "add", "pod", "type", "veth", "peer", "name", "far")
        pin_dir = root / "hold"
        pin_dir.mkdir()
        settings = Settings(
            pod_ifindex=socket.if_nametoindex("pod"),
            plug_ifindex=socket.if_nametoindex("far"),
            far_ifindex=socket.if_nametoindex("far"),
            max_packets=MAX_PACKETS,
            max_bytes=MAX_BYTES,
            flags=Flag.WAKE_ON_ICMP | Flag.DELIVER_PEER,
            pod_mac=POD_MAC,
        )
        install(pin_dir, settings, [ip_address(POD4), ip_address(POD6)])
        opened = InstalledHold(pin_dir)
        try:
            assert opened.settings() == settings
            yield opened
        finally:
            opened.close()
            uninstall(pin_dir)
            pin_dir.rmdir()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
def test_towards_a_sleeping_pod(made: InstalledHold, case: Case) -> None:
    assert made.test_run(Program.TO_POD, case.frame) == NEXT  # awake
    made.set_phase(Phase.HELD)
    verdict = made.test_run(Program.TO_POD, case.frame)
    counters = made.counters()
    assert verdict == (REDIRECT if case.held else NEXT)
    assert counters.in_packets == int(case.held)
    assert counters.in_bytes == (len(case.frame) if case.held else 0)
    event = made.take_event()
    assert (event.cause if event else None) == case.cause
    if event and event.cause in (Cause.TCP_SYN, Cause.UDP):
        assert (event.source_port, event.destination_port) in ((40000, 80), (40000, 53))
        assert str(event.destination) in (POD4, POD6)
    assert made.take_event() is None


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
def test_from_a_sleeping_pod(made: InstalledHold, case: Case) -> None:
    """The same frames, as if the pod had sent them: all of IP but discovery stays inside."""
    assert made.test_run(Program.FROM_POD, case.frame) == NEXT
    made.set_phase(Phase.HELD)
    passes = case.what in ("a neighbour solicitation", "ARP")
    assert made.test_run(Program.FROM_POD, case.frame) == (NEXT if passes else SHOT)
    counters = made.counters()
    assert counters.shielded_packets == int(not passes)
    assert counters.shielded_resets == int("RST" in case.what)
    made.set_phase(Phase.RELEASING)
    assert made.test_run(Program.FROM_POD, case.frame) == NEXT


def test_one_event_for_each_arming(made: InstalledHold) -> None:
    frame = to4(TCP, tcp(SYN))
    for _ in range(3):
        made.rearm()
        made.set_phase(Phase.HELD)
        for _ in range(3):
            assert made.test_run(Program.TO_POD, frame) == REDIRECT
        assert made.take_event() is not None
        assert made.take_event() is None
    made.test_run(Program.TO_POD, frame)
    made.rearm()
    assert made.take_event() is None
    assert made.counters().in_packets == 0


def test_quiet_packets_leave_room_for_those_that_wake(made: InstalledHold) -> None:
    made.set_phase(Phase.HELD)
    quiet, waking = to4(TCP, tcp(ACK)), to4(TCP, tcp(SYN))
    verdicts = [made.test_run(Program.TO_POD, quiet) for _ in range(MAX_PACKETS)]
    assert verdicts.count(REDIRECT) == MAX_PACKETS // 4
    assert verdicts.count(SHOT) == made.counters().quiet_over_packets
    verdicts = [made.test_run(Program.TO_POD, waking) for _ in range(MAX_PACKETS)]
    assert verdicts.count(REDIRECT) == MAX_PACKETS - MAX_PACKETS // 4
    assert verdicts.count(SHOT) == made.counters().over_packets == MAX_PACKETS // 4
    assert made.take_event() is not None


def test_the_bound_in_bytes(made: InstalledHold) -> None:
    made.set_phase(Phase.HELD)
    frame = to4(17, udp(bytes(3_000)))
    verdicts = [made.test_run(Program.TO_POD, frame) for _ in range(20)]
    fitting = MAX_BYTES // len(frame)
    assert verdicts == [REDIRECT] * fitting + [SHOT] * (20 - fitting)
    assert made.counters().over_bytes == (20 - fitting) * len(frame)


def test_the_far_end(made: InstalledHold) -> None:
    frame = to4(TCP, tcp(SYN))
    assert made.test_run(Program.FAR_END, frame) == SHOT  # nobody put it into the plug
    assert made.counters().strays == 1
    made.set_phase(Phase.HELD)
    assert made.test_run(Program.FAR_END, frame, mark=MARK) == REDIRECT
    assert made.counters().looped == 1
    assert made.counters().out_packets == 0
    made.set_phase(Phase.RELEASING)
    assert made.test_run(Program.FAR_END, frame, mark=MARK) == REDIRECT
    assert made.counters().out_packets == 1
    assert made.counters().first_out_ns > 0


def test_packets_pass_directly_when_the_plug_is_empty_and_not_before(made: InstalledHold) -> None:
    frame = to4(TCP, tcp(SYN))
    with on_cpu(0):
        made.set_phase(Phase.HELD)
        for _ in range(2):
            made.test_run(Program.TO_POD, frame)
        assert made.settle() is Phase.HELD
        made.set_phase(Phase.RELEASING)
        assert made.test_run(Program.TO_POD, frame) == REDIRECT
        for _ in range(3):
            assert made.settle() is Phase.RELEASING
            made.test_run(Program.FAR_END, frame, mark=MARK)
        assert made.phase() is Phase.RELEASING
        assert made.test_run(Program.TO_POD, frame) == NEXT
        assert made.phase() is Phase.PASS
        assert made.counters().in_packets == made.counters().out_packets == 3


@pytest.mark.skipif(len(CPUS) < 2, reason="needs two CPUs")
def test_only_where_the_last_one_came_out_packets_pass_directly(made: InstalledHold) -> None:
    """On the other CPU the last one may still be on its way into the pod."""
    frame = to4(TCP, tcp(SYN))
    made.set_phase(Phase.HELD)
    made.test_run(Program.TO_POD, frame)
    made.set_phase(Phase.RELEASING)
    with on_cpu(0):
        made.test_run(Program.FAR_END, frame, mark=MARK)
    with on_cpu(1):
        assert made.settle() is Phase.RELEASING
        assert made.test_run(Program.TO_POD, frame) == REDIRECT
    with on_cpu(0):
        made.test_run(Program.FAR_END, frame, mark=MARK)
    with on_cpu(1):
        assert made.settle() is Phase.RELEASING
        made.test_run(Program.FAR_END, frame)  # a frame that nobody put there tells as much
        assert made.test_run(Program.TO_POD, frame) == NEXT
        assert made.phase() is Phase.PASS


def backdate(made: InstalledHold, seconds: float) -> None:
    """Has everything come in and out by so much earlier."""
    bpftool = ["bpftool", "map"]
    counts = ["pinned", str(made.pin_dir / "counts"), "key", "hex", *["00"] * 4]
    shown = subprocess.run(
        [*bpftool, "-j", "lookup", *counts], check=True, stdout=subprocess.PIPE, timeout=60
    )
    value = bytearray(int(byte, 16) for byte in json.loads(shown.stdout)["value"])
    for time_ns_at in (LAST_IN_NS_AT, LAST_OUT_NS_AT):
        (time_ns,) = struct.unpack_from("=Q", value, time_ns_at)
        if time_ns:
            struct.pack_into("=Q", value, time_ns_at, time_ns - int(seconds * 10**9))
    written = ["value", "hex", *(f"{byte:02x}" for byte in value)]
    subprocess.run([*bpftool, "update", *counts, *written], check=True, timeout=60)


@pytest.mark.skipif(shutil.which("bpftool") is None, reason="needs bpftool")
def test_a_packet_that_the_kernel_drops_in_the_plug_is_given_up_in_the_end(
    made: InstalledHold,
) -> None:
    frame = to4(TCP, tcp(SYN))
    made.set_phase(Phase.HELD)
    for _ in range(2):
        made.test_run(Program.TO_POD, frame)
    made.set_phase(Phase.RELEASING)
    backdate(made, 2 * QUIET_S)
    assert made.settle() is Phase.RELEASING  # nothing has come out: the plug is closed yet
    made.test_run(Program.FAR_END, frame, mark=MARK)
    assert made.settle() is Phase.RELEASING
    backdate(made, QUIET_S - PATIENCE_S)
    assert made.settle() is Phase.RELEASING
    backdate(made, PATIENCE_S)
    assert made.test_run(Program.TO_POD, frame) == NEXT
    assert made.phase() is Phase.PASS


def test_a_hold_that_held_nothing_passes_at_once(made: InstalledHold) -> None:
    made.set_phase(Phase.RELEASING)
    assert made.test_run(Program.TO_POD, to4(TCP, tcp(SYN))) == NEXT
    assert made.phase() is Phase.PASS
