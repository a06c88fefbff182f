# SPDX-License-Identifier: Apache-2.0
"""Composes the few rtnetlink messages of a hold, as bytes that any process can send; no I/O here.

Layouts: include/uapi/linux/{netlink,rtnetlink,neighbour,pkt_sched}.h. Messages are in the machine's
byte order, have sequence number 0 and ask for an acknowledgement.
"""

from __future__ import annotations

import struct

RTM_NEWNEIGH, RTM_DELNEIGH, RTM_NEWQDISC, RTM_DELQDISC, RTM_SETNEIGHTBL = 28, 29, 36, 37, 67
NLM_F_REQUEST, NLM_F_ACK = 0x1, 0x4
NLM_F_REPLACE, NLM_F_CREATE = 0x100, 0x400

_AF_INET = 2
_NTF_USE = 0x01
_NDA_DST = 1
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


def _neighbour(ifindex: int, ipv4: bytes, flags: int) -> bytes:
    header = struct.pack("=BxxxiHBB", _AF_INET, ifindex, 0, flags, 0)
    return header + _attribute(_NDA_DST, ipv4)


def _attribute(kind: int, payload: bytes) -> bytes:
    padding = bytes(-len(payload) % 4)
    return struct.pack("=HH", 4 + len(payload), kind) + payload + padding


def _message(kind: int, flags: int, body: bytes) -> bytes:
    flags |= NLM_F_REQUEST | NLM_F_ACK
    return struct.pack("=IHHII", 16 + len(body), kind, flags, 0, 0) + body
