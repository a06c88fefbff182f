# SPDX-License-Identifier: Apache-2.0
"""The rerouting programs, run by the kernel on built frames: what is sent on, what passes."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from shim._native_reroute import Entry, FlowKey, Loaded, NodeKind, Program, uninstall
from shim._native_target import Kind, Target
from tests.bpf.hold_net import bpf_root, ip, node_netns
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

pytestmark = pytest.mark.root

NEXT, SHOT, REDIRECT = 0xFFFFFFFF, 2, 7
XDP_PASS, XDP_TX = 2, 3
POD4, PEER4, POD6, PEER6 = "10.1.0.5", "192.0.2.7", "fd00::5", "2001:db8::7"
HOP4, HOP6, OWN4, FAR4 = "10.9.0.2", "fd09::2", "10.9.0.1", "10.9.1.2"
HOP_MAC = "02:00:00:00:99:02"
TCP, ICMP, ICMPV6, FRAGMENT, HOP_BY_HOP, IPIP = 6, 1, 58, 44, 0, 4
ETHERNET_BYTES = 14
FLOW4 = FlowKey(TCP, ip_address(PEER4), 40000, ip_address(POD4), 80)
FLOW6 = FlowKey(TCP, ip_address(PEER6), 40000, ip_address(POD6), 80)


def tcp(source_port: int = 40000, port: int = 80, payload: bytes = b"data") -> bytes:
    return struct.pack("!HHIIBBHHH", source_port, port, 1, 1, 5 << 4, 16, 9, 0, 0) + payload


def checksum(header: bytes) -> int:
    total = sum(struct.unpack(f"!{len(header) // 2}H", header))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def v4(payload: bytes, protocol: int = TCP, **changes: object) -> bytes:
    """An IPv4 packet to the pod, with a right checksum."""
    packet = bytearray(
        ipv4(
            str(changes.get("source", PEER4)),
            str(changes.get("destination", POD4)),
            payload,
            options=bytes(changes.get("options", b"")),  # type: ignore[call-overload]
        )
    )
    packet[9] = protocol
    packet[8] = int(changes.get("ttl", 64))  # type: ignore[call-overload]
    packet[6:8] = struct.pack("!H", int(changes.get("fragment", 0)))  # type: ignore[call-overload]
    header = (packet[0] & 15) * 4
    packet[10:12] = struct.pack("!H", checksum(bytes(packet[:header])))
    return bytes(packet)


def v6(payload: bytes, protocol: int = TCP, destination: str = POD6) -> bytes:
    return ipv6(PEER6, destination, payload, next_header=protocol)


def quoted4() -> bytes:
    """Fragmentation needed, about what the pod has sent to its peer."""
    inner = v4(tcp(80, 40000)[:8], source=POD4, destination=PEER4)
    return struct.pack("!BBHHH", 3, 4, 0, 0, 1400) + inner


def quoted6() -> bytes:
    return struct.pack("!BBHI", 2, 0, 0, 1400) + ipv6(
        POD6, PEER6, tcp(80, 40000)[:8], next_header=TCP
    )


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[tuple[Loaded, int]]:
    """Loaded on a device whose neighbours are known."""
    with node_netns(f"pfrr-{tmp_path.name[-8:]}"), bpf_root(tmp_path / "bpf") as root:
        for name in ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"):
            (Path("/proc/sys") / name).write_text("1")
        ip("link", "add", "up0", "type", "veth", "peer", "name", "up1")
        for address in (f"{OWN4}/24", "fd09::1/64"):
            ip("address", "add", address, "dev", "up0", *(["nodad"] if ":" in address else []))
        for device in ("up0", "up1"):
            ip("link", "set", device, "up")
        for hop in (HOP4, HOP6):
            ip("neighbour", "replace", hop, "lladdr", HOP_MAC, "dev", "up0", "nud", "permanent")
        ip("route", "add", "10.9.1.0/24", "via", HOP4, "dev", "up0")
        pins = root / "reroute"
        pins.mkdir()
        loaded = Loaded(pins)
        try:
            yield loaded, socket.if_nametoindex("up0")
        finally:
            loaded.close()
            uninstall(pins)
            assert list(pins.iterdir()) == []


def link(index: int, hop: str) -> Target:
    return Target(Kind.LINK, index, ip_address(hop))


def tunnel(index: int, mtu: int = 1480) -> Target:
    return Target(Kind.TUNNEL, index, ip_address(FAR4), ip_address(OWN4), mtu)


ADDRESSED = [
    ("tcp", ethernet(v4(tcp()), ETH_P_IP)),
    ("tcp6", ethernet(v6(tcp()), ETH_P_IPV6)),
    ("later fragment", ethernet(v4(b"x" * 64, fragment=100), ETH_P_IP)),
    ("first fragment", ethernet(v4(tcp(), fragment=0x2000), ETH_P_IP)),
    ("options", ethernet(v4(tcp(), options=b"\x01" * 8), ETH_P_IP)),
    ("extensions6", ethernet(v6(struct.pack("!BB6x", TCP, 0) + tcp(), HOP_BY_HOP), ETH_P_IPV6)),
    (
        "later fragment6",
        ethernet(v6(struct.pack("!BBHI", TCP, 0, 800, 1) + b"x" * 64, FRAGMENT), ETH_P_IPV6),
    ),
    ("sctp", ethernet(v4(tcp(), 132), ETH_P_IP)),
    ("another protocol", ethernet(v4(b"x" * 40, 47), ETH_P_IP)),
    ("echo request", ethernet(v4(struct.pack("!BBHI", 8, 0, 0, 1), ICMP), ETH_P_IP)),
    ("icmp error", ethernet(v4(quoted4(), ICMP), ETH_P_IP)),
    ("icmp6 error", ethernet(v6(quoted6(), ICMPV6), ETH_P_IPV6)),
]
PASSING = [
    ("another address", ethernet(v4(tcp(), destination="10.1.0.6"), ETH_P_IP)),
    ("one hop left", ethernet(v4(tcp(), ttl=1), ETH_P_IP)),
    ("arp", ethernet(bytes(28), ETH_P_ARP)),
    ("a tag", ethernet(v4(tcp()), ETH_P_IP, (ETH_P_8021Q, 7))),
    ("two tags", ethernet(v4(tcp()), ETH_P_IP, (ETH_P_8021AD, 7), (ETH_P_8021Q, 8))),
    (
        "neighbour discovery",
        ethernet(v6(struct.pack("!BBHI", 135, 0, 0, 0) + bytes(16), ICMPV6), ETH_P_IPV6),
    ),
    ("no IPv4", ethernet(b"\x65" + v4(tcp())[1:], ETH_P_IP)),
    ("short ports", ethernet(v4(b"\x9c"), ETH_P_IP)),
    ("short header", ethernet(v6(tcp())[:39], ETH_P_IPV6)),
    ("short extension", ethernet(v6(b"", HOP_BY_HOP), ETH_P_IPV6)),
]


def aged(frame: bytes, run: bytes) -> None:
    """One hop less, the checksum right for it, and nothing else changed."""
    before, after = bytearray(frame[ETHERNET_BYTES:]), bytearray(run[ETHERNET_BYTES:])
    if before[0] >> 4 == 4:
        header = (after[0] & 15) * 4
        assert checksum(bytes(after[:header])) == 0
        before[8] -= 1
        before[10:12] = after[10:12] = b"\0\0"
    else:
        before[7] -= 1
    assert before == after


@pytest.mark.parametrize(("what", "frame"), ADDRESSED, ids=[what for what, _ in ADDRESSED])
def test_what_is_for_a_moved_address_is_sent_on(
    programs: tuple[Loaded, int], what: str, frame: bytes
) -> None:
    loaded, index = programs
    loaded.put(ip_address(POD4), Entry(link(index, HOP4), 1))
    loaded.put(ip_address(POD6), Entry(link(index, HOP6), 1))
    run = loaded.test_run(Program.INGRESS, frame, index)
    assert run.verdict == REDIRECT
    aged(frame, run.frame)
    assert loaded.counters().sent == 1


@pytest.mark.parametrize("program", [Program.INGRESS, Program.XDP])
@pytest.mark.parametrize(("what", "frame"), PASSING, ids=[what for what, _ in PASSING])
def test_what_no_entry_is_for_passes_untouched(
    programs: tuple[Loaded, int], program: Program, what: str, frame: bytes
) -> None:
    loaded, index = programs
    if what == "short header" and program is not Program.XDP:
        pytest.skip("the kernel's test run refuses such a frame before tc programs see it")
    loaded.put(ip_address(POD4), Entry(link(index, HOP4), 1))
    loaded.put(ip_address(POD6), Entry(link(index, HOP6), 1))
    run = loaded.test_run(program, frame, index)
    assert run.verdict == (XDP_PASS if program is Program.XDP else NEXT)
    assert run.frame == frame
    assert loaded.counters().sent == 0


@pytest.mark.parametrize(
    ("frame", "goes"),
    [
        (ethernet(v4(tcp()), ETH_P_IP), True),
        (ethernet(v6(tcp()), ETH_P_IPV6), True),
        (ethernet(v4(tcp(40001)), ETH_P_IP), False),
        (ethernet(v4(tcp(), fragment=100), ETH_P_IP), False),
        (ethernet(v4(tcp(), fragment=0x2000), ETH_P_IP), True),
        (ethernet(v4(quoted4(), ICMP), ETH_P_IP), True),
        (ethernet(v6(quoted6(), ICMPV6), ETH_P_IPV6), True),
        (ethernet(v4(quoted4()[:30], ICMP), ETH_P_IP), False),
    ],
)
def test_flows_alone_are_told_apart(programs: tuple[Loaded, int], frame: bytes, goes: bool) -> None:
    loaded, index = programs
    loaded.put(FLOW4, Entry(link(index, HOP4), 1))
    loaded.put(FLOW6, Entry(link(index, HOP6), 1))
    for program in (Program.INGRESS, Program.FROM_POD):
        run = loaded.test_run(program, frame, index)
        assert run.verdict == (REDIRECT if goes else NEXT)
    assert sorted(map(str, loaded.flows())) == sorted(map(str, (FLOW4, FLOW6)))


def test_an_expired_entry_is_none(programs: tuple[Loaded, int]) -> None:
    loaded, index = programs
    frame = ethernet(v4(tcp()), ETH_P_IP)
    loaded.put(ip_address(POD4), Entry(link(index, HOP4), 1, time.monotonic_ns() - 1))
    assert loaded.test_run(Program.INGRESS, frame, index).verdict == NEXT
    assert loaded.counters().expired == 1
    loaded.put(ip_address(POD4), Entry(link(index, HOP4), 1, time.monotonic_ns() + 10**12))
    assert loaded.test_run(Program.INGRESS, frame, index).verdict == REDIRECT


def test_a_tunnel_packet_is_right_to_the_byte_and_is_opened_again(
    programs: tuple[Loaded, int],
) -> None:
    loaded, index = programs
    frame = ethernet(v4(tcp()), ETH_P_IP)
    loaded.put(ip_address(POD4), Entry(tunnel(index), 1))
    sent = loaded.test_run(Program.INGRESS, frame, index)
    assert sent.verdict == REDIRECT
    outer, inner = sent.frame[14:34], sent.frame[34:]
    assert checksum(outer) == 0
    assert struct.unpack_from("!H", outer, 2)[0] == len(sent.frame) - ETHERNET_BYTES
    assert outer[9] == IPIP
    assert (outer[12:16], outer[16:20]) == (ip_address(OWN4).packed, ip_address(FAR4).packed)
    aged(frame, bytes(ETHERNET_BYTES) + inner)

    loaded.drop(ip_address(POD4))
    loaded.set_node(ip_address(OWN4), NodeKind.PEER)
    loaded.set_node(ip_address(FAR4), NodeKind.SELF)
    assert loaded.test_run(Program.INGRESS, sent.frame, index).verdict == SHOT, "for nobody"
    loaded.put(FLOW4, Entry(tunnel(index), 1, time.monotonic_ns() - 1))  # known, but not sent on
    opened = loaded.test_run(Program.INGRESS, sent.frame, index)
    assert opened.verdict == NEXT
    assert opened.frame[ETHERNET_BYTES:] == inner
    loaded.drop_node(ip_address(OWN4))
    assert loaded.test_run(Program.INGRESS, sent.frame, index).verdict == NEXT, "of a stranger"
    assert loaded.counters().strange == 2


def test_what_a_tunnel_does_not_carry_is_left_to_the_kernel_as_it_was(
    programs: tuple[Loaded, int],
) -> None:
    loaded, index = programs
    loaded.put(ip_address(POD4), Entry(tunnel(index, 100), 1))
    fits = ethernet(v4(tcp(payload=b"x" * 60)), ETH_P_IP)
    longer = ethernet(v4(tcp(payload=b"x" * 61)), ETH_P_IP)
    assert loaded.test_run(Program.INGRESS, fits, index).verdict == REDIRECT
    run = loaded.test_run(Program.INGRESS, longer, index)
    assert (run.verdict, run.frame) == (NEXT, longer)
    assert loaded.counters().too_long == 1


@pytest.mark.parametrize(
    ("pod", "hop", "frame"),
    [
        (POD4, HOP4, ethernet(v4(tcp()), ETH_P_IP)),
        (POD6, HOP6, ethernet(v6(tcp()), ETH_P_IPV6)),
    ],
    ids=["v4", "v6"],
)
def test_xdp_writes_both_macs(
    programs: tuple[Loaded, int], pod: str, hop: str, frame: bytes
) -> None:
    loaded, index = programs
    loaded.put(ip_address(pod), Entry(link(index, hop), 1))
    run = loaded.test_run(Program.XDP, frame, index)
    assert run.verdict == XDP_TX
    aged(frame, run.frame)
    assert run.frame[:6].hex(":") == HOP_MAC
    assert run.frame[6:12] != frame[6:12]
    ip("neighbour", "delete", hop, "dev", "up0")
    assert loaded.test_run(Program.XDP, frame, index).verdict == XDP_PASS, "tcx waits for the MAC"
