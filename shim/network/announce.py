# SPDX-License-Identifier: Apache-2.0
"""Tells a bridge's neighbours that an address is reached by the bridge itself from now on.

Without it they go on sending to the MAC of a pod that is gone, for seconds. ARP: RFC 5227 section
2.3; neighbour discovery: RFC 4861 section 7.2.6.
"""

from __future__ import annotations

import socket
import struct
from ipaddress import IPv6Address

from shim._native_target import Address

_ETH_P_ARP, _ETH_P_IPV6 = 0x0806, 0x86DD
_ARP_REQUEST = 1
_BROADCAST = b"\xff" * 6
_ALL_NODES = IPv6Address("ff02::1")
_ALL_NODES_MAC = bytes.fromhex("333300000001")
_ICMPV6, _ADVERTISEMENT, _OVERRIDE = 58, 136, 0x20000000
_TARGET_MAC_OPTION = 2


def answer(address: Address, device: str) -> None:
    """Sends the announcement, with the device's own MAC.

    Args:
        address: whose packets the device is to get.
        device: a bridge of this network namespace.
    """
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((device, 0))
        mac = raw.getsockname()[4]
        raw.send(_arp(address.packed, mac) if address.version == 4 else _neighbour(address, mac))


def _arp(ipv4: bytes, mac: bytes) -> bytes:
    body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, _ARP_REQUEST)
    return _BROADCAST + mac + struct.pack("!H", _ETH_P_ARP) + body + mac + ipv4 + bytes(6) + ipv4


def _neighbour(address: Address, mac: bytes) -> bytes:
    message = struct.pack("!BBHI", _ADVERTISEMENT, 0, 0, _OVERRIDE) + address.packed
    message += struct.pack("!BB", _TARGET_MAC_OPTION, 1) + mac
    pseudo = address.packed + _ALL_NODES.packed + struct.pack("!IxxxB", len(message), _ICMPV6)
    message = message[:2] + struct.pack("!H", _checksum(pseudo + message)) + message[4:]
    header = struct.pack("!IHBB", 6 << 28, len(message), _ICMPV6, 255)
    ip = header + address.packed + _ALL_NODES.packed
    return _ALL_NODES_MAC + mac + struct.pack("!H", _ETH_P_IPV6) + ip + message


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
