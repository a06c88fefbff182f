# SPDX-License-Identifier: Apache-2.0
"""Composes the few rtnetlink messages of holds and routes, as bytes to be sent; no I/O here.

Layouts: include/uapi/linux/{netlink,rtnetlink,neighbour,pkt_sched}.h. Messages are in the machine's
byte order, have sequence number 0 and ask for an acknowledgement.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

RTM_NEWADDR, RTM_DELADDR, RTM_NEWROUTE, RTM_DELROUTE = 20, 21, 24, 25
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_NEWQDISC, RTM_DELQDISC, RTM_SETNEIGHTBL = 28, 29, 36, 37, 67
NLM_F_REQUEST, NLM_F_ACK = 0x1, 0x4
NLM_F_REPLACE, NLM_F_CREATE = 0x100, 0x400

# Who made a route (rtm_protocol): a number that iproute2's rt_protos gives to nobody.
ROUTE_PROTOCOL = 112

_AF_INET, _AF_INET6 = 2, 10
_RT_TABLE_MAIN = 254
_RT_SCOPE_UNIVERSE, _RT_SCOPE_LINK, _RT_SCOPE_NOWHERE = 0, 253, 255
_RTN_UNSPEC, _RTN_UNICAST, _RTNH_F_ONLINK = 0, 1, 4
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_METRICS, _RTA_VIA = 1, 4, 5, 6, 8, 18
_RTAX_MTU = 2
_IFA_ADDRESS, _IFA_LOCAL, _IFA_CACHEINFO, _IFA_FLAGS = 1, 2, 6, 8
_IFA_F_NODAD, _RT_SCOPE_HOST = 0x02, 254
_FOREVER_S = 0xFFFFFFFF
_HOST_ROUTE_METRIC = 64
_NTF_PROXY = 0x08
_NTF_USE = 0x01
_NDA_DST, _NDA_LLADDR = 1, 2
_NUD_REACHABLE = 0x02
_NDTA_NAME, _NDTA_PARMS, _NDTPA_IFINDEX, _NDTPA_MCAST_PROBES = 1, 6, 1, 11
_TCA_KIND, _TCA_OPTIONS = 1, 2
_TC_H_ROOT = 0xFFFFFFFF
_TBF_HANDLE = 0x10000
_TCA_TBF_PARMS, _TCA_TBF_RATE64 = 1, 4
_TC_LINKLAYER_ETHERNET = 1
# The kernel counts a bucket's time in units of 64 ns (PSCHED_SHIFT).
_TICK_SHIFT = 6
_UINT32_MAX = 0xFFFFFFFF


def tbf(
    ifindex: int,
    *,
    rate_bytes_per_s: int,
    bucket_ns: int,
    minimum_packet_bytes: int,
    limit_bytes: int,
    create: bool,
) -> bytes:
    """The message that gives a device a token bucket as its root qdisc, or changes the one it has.

    A change keeps the packets that wait in it.

    Args:
        ifindex: the device.
        rate_bytes_per_s: tokens per second.
        bucket_ns: what the bucket holds, as a time at that rate; below 2**32.
        minimum_packet_bytes: a shorter packet costs as much as one of this length.
        limit_bytes: what waits at most.
        create: whether it is made or changed.
    """
    rate = struct.pack(
        "=BBHhHI",
        0,
        _TC_LINKLAYER_ETHERNET,
        0,
        0,
        minimum_packet_bytes,
        min(rate_bytes_per_s, _UINT32_MAX),
    )
    no_peak = bytes(12)
    parameters = rate + no_peak + struct.pack("=III", limit_bytes, bucket_ns >> _TICK_SHIFT, 0)
    options = _attribute(_TCA_TBF_PARMS, parameters)
    if rate_bytes_per_s > _UINT32_MAX:
        options += _attribute(_TCA_TBF_RATE64, struct.pack("=Q", rate_bytes_per_s))
    header = struct.pack("=BxxxiIII", 0, ifindex, _TBF_HANDLE, _TC_H_ROOT, 0)
    flags = NLM_F_CREATE | NLM_F_REPLACE if create else 0
    body = header + _attribute(_TCA_KIND, b"tbf\0") + _attribute(_TCA_OPTIONS, options)
    return _message(RTM_NEWQDISC, flags, body)


def remove_root(ifindex: int) -> bytes:
    """The message that takes away a device's root qdisc, and what waits in it."""
    return _message(RTM_DELQDISC, 0, struct.pack("=BxxxiIII", 0, ifindex, 0, _TC_H_ROOT, 0))


def resolve(ifindex: int, ipv4: bytes) -> bytes:
    """The message that has the kernel ask for an IPv4 neighbour: a frame leaves the device.

    Nothing leaves it while the kernel still waits for the answer to an earlier one; see `forget`.
    """
    return _message(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, _neighbour(ifindex, ipv4, _NTF_USE))


def known_neighbour(ifindex: int, address: IPv4Address | IPv6Address, mac: bytes) -> bytes:
    """The message that tells a neighbour's MAC, unless another is known already.

    Packets for a neighbour that is still asked for wait in a queue of 208 KiB, and what is over is
    dropped.
    """
    family = _AF_INET if address.version == 4 else _AF_INET6
    header = struct.pack("=BxxxiHBB", family, ifindex, _NUD_REACHABLE, 0, 0)
    body = header + _attribute(_NDA_DST, address.packed) + _attribute(_NDA_LLADDR, mac)
    return _message(RTM_NEWNEIGH, NLM_F_CREATE, body)


def forget(ifindex: int, ipv4: bytes) -> bytes:
    """The message that deletes a neighbour; the kernel answers ENOENT if it knows none."""
    return _message(RTM_DELNEIGH, 0, _neighbour(ifindex, ipv4, 0))


def ask_once(ifindex: int) -> bytes:
    """The message that has the kernel ask for each IPv4 neighbour of a device but once."""
    parameters = _attribute(_NDTPA_IFINDEX, struct.pack("=I", ifindex))
    parameters += _attribute(_NDTPA_MCAST_PROBES, struct.pack("=I", 1))
    body = struct.pack("=Bxxx", _AF_INET)
    body += _attribute(_NDTA_NAME, b"arp_cache\0") + _attribute(_NDTA_PARMS, parameters)
    return _message(RTM_SETNEIGHTBL, 0, body)


def host_route(
    address: IPv4Address | IPv6Address,
    ifindex: int,
    gateway: IPv4Address | IPv6Address | None,
    mtu_bytes: int = 0,
) -> bytes:
    """The message that makes, or changes, the route to one address in the main table.

    Args:
        address: where it leads.
        ifindex: the device.
        gateway: the neighbour that it goes through; None where the address is itself one.
        mtu_bytes: longer packets are refused to their senders; 0 for what the device takes.
    """
    scope = _RT_SCOPE_UNIVERSE if gateway is not None else _RT_SCOPE_LINK
    attributes = _attribute(_RTA_OIF, struct.pack("=I", ifindex))
    flags = 0
    if gateway is not None and gateway.version == address.version:
        attributes += _attribute(_RTA_GATEWAY, gateway.packed)
        flags = _RTNH_F_ONLINK
    elif gateway is not None:
        family = struct.pack("=H", _AF_INET6 if gateway.version == 6 else _AF_INET)
        attributes += _attribute(_RTA_VIA, family + gateway.packed)
        flags = _RTNH_F_ONLINK
    if mtu_bytes:
        metrics = _attribute(_RTAX_MTU, struct.pack("=I", mtu_bytes))
        attributes += _attribute(_RTA_METRICS, metrics)
    body = _route(address, scope, _RTN_UNICAST, flags) + attributes
    return _message(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, body)


def no_host_route(address: IPv4Address | IPv6Address) -> bytes:
    """The message that deletes it; the kernel answers ESRCH if there is none of ours."""
    return _message(RTM_DELROUTE, 0, _route(address, _RT_SCOPE_NOWHERE, _RTN_UNSPEC, 0))


def _route(address: IPv4Address | IPv6Address, scope: int, kind: int, flags: int) -> bytes:
    family = _AF_INET if address.version == 4 else _AF_INET6
    length = address.max_prefixlen
    table, protocol = _RT_TABLE_MAIN, ROUTE_PROTOCOL
    header = struct.pack("=BBBBBBBBI", family, length, 0, 0, table, protocol, scope, kind, flags)
    body = header + _attribute(_RTA_DST, address.packed)
    # A metric of its own: what somebody else has put for the same address is not replaced.
    return body + _attribute(_RTA_PRIORITY, struct.pack("=I", _HOST_ROUTE_METRIC))


def silent_address(address: IPv4Address | IPv6Address, ifindex: int) -> bytes:
    """The message that gives a device an address that nothing chooses by itself as its source.

    Deprecated at once, without duplicate address detection, for this host alone.
    """
    family = _AF_INET if address.version == 4 else _AF_INET6
    header = struct.pack("=BBBBI", family, address.max_prefixlen, 0, _RT_SCOPE_HOST, ifindex)
    body = header + _attribute(_IFA_LOCAL, address.packed)
    body += _attribute(_IFA_ADDRESS, address.packed)
    body += _attribute(_IFA_FLAGS, struct.pack("=I", _IFA_F_NODAD))
    body += _attribute(_IFA_CACHEINFO, struct.pack("=IIII", 0, _FOREVER_S, 0, 0))
    return _message(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, body)


def no_address(address: IPv4Address | IPv6Address, ifindex: int) -> bytes:
    """The message that takes an address away; the kernel answers EADDRNOTAVAIL if there is none."""
    family = _AF_INET if address.version == 4 else _AF_INET6
    header = struct.pack("=BBBBI", family, address.max_prefixlen, 0, 0, ifindex)
    return _message(RTM_DELADDR, 0, header + _attribute(_IFA_LOCAL, address.packed))


def proxy(address: IPv4Address | IPv6Address, ifindex: int) -> bytes:
    """The message that has a device answer ARP, or neighbour discovery, for an address."""
    family = _AF_INET if address.version == 4 else _AF_INET6
    header = struct.pack("=BxxxiHBB", family, ifindex, 0, _NTF_PROXY, 0)
    body = header + _attribute(_NDA_DST, address.packed)
    return _message(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, body)


def no_proxy(address: IPv4Address | IPv6Address, ifindex: int) -> bytes:
    """The message that ends it; the kernel answers ENOENT if there is none."""
    family = _AF_INET if address.version == 4 else _AF_INET6
    header = struct.pack("=BxxxiHBB", family, ifindex, 0, _NTF_PROXY, 0)
    return _message(RTM_DELNEIGH, 0, header + _attribute(_NDA_DST, address.packed))


def _neighbour(ifindex: int, ipv4: bytes, flags: int) -> bytes:
    header = struct.pack("=BxxxiHBB", _AF_INET, ifindex, 0, flags, 0)
    return header + _attribute(_NDA_DST, ipv4)


def _attribute(kind: int, payload: bytes) -> bytes:
    padding = bytes(-len(payload) % 4)
    return struct.pack("=HH", 4 + len(payload), kind) + payload + padding


def _message(kind: int, flags: int, body: bytes) -> bytes:
    flags |= NLM_F_REQUEST | NLM_F_ACK
    return struct.pack("=IHHII", 16 + len(body), kind, flags, 0, 0) + body
