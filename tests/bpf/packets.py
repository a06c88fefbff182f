# SPDX-License-Identifier: Apache-2.0
"""Builds the frames that the BPF tests run programs on."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

ETH_P_IP, ETH_P_ARP, ETH_P_IPV6, ETH_P_8021Q, ETH_P_8021AD = (
    0x0800,
    0x0806,
    0x86DD,
    0x8100,
    0x88A8,
)
UDP = 17


def ethernet(payload: bytes, protocol: int, *vlans: tuple[int, int]) -> bytes:
    """A frame; each of ``vlans`` is a tag's own protocol and its number, the outermost first."""
    tags = b""
    for tag_protocol, number in vlans:
        tags += struct.pack("!HH", tag_protocol, number)
    return bytes.fromhex("020000000001 020000000002") + tags + struct.pack("!H", protocol) + payload


def ipv4(source: str, destination: str, payload: bytes = b"", *, options: bytes = b"") -> bytes:
    """An IPv4 packet without a checksum, which no program of ours looks at."""
    words = 5 + len(options) // 4
    header = struct.pack(
        "!BBHHHBBH4s4s",
        0x40 | words,
        0,
        words * 4 + len(payload),
        1,
        0,
        64,
        UDP,
        0,
        IPv4Address(source).packed,
        IPv4Address(destination).packed,
    )
    return header + options + payload


def ipv6(source: str, destination: str, payload: bytes = b"", *, next_header: int = UDP) -> bytes:
    """An IPv6 packet."""
    return (
        struct.pack("!IHBB", 6 << 28, len(payload), next_header, 64)
        + IPv6Address(source).packed
        + IPv6Address(destination).packed
        + payload
    )
