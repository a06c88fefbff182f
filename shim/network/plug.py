# SPDX-License-Identifier: Apache-2.0
"""Owns the device that keeps packets: a pair of veths whose near end has a stopped-up qdisc.

The qdisc is a token bucket in which the cheapest packet costs more than the bucket ever holds, so
nothing passes, however long it waits; a change of its rate opens it and loses nothing. It looks
for tokens when a packet comes or its timer fires, so an opening also has the kernel send a frame
of its own through it: an ARP request, which the far end throws away. Without it packets would
leave with the timer, TIMER_NS later at most.

Order: what leaves the near end normally goes through the backlog of the CPU that took it out, and
two CPUs that take turns swap packets. Where the kernel stops a full veth instead of dropping, the
far end is polled instead (NAPI), one CPU at a time and in order; veth does that for a receiver
with GRO if the sender has no segmentation offload.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import os
import re
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from shim.errors import NativeError
from shim.network import rtnetlink

# How long a closed qdisc's timer sleeps between two looks.
TIMER_NS = 100_000_000

_MINIMUM_PACKET_BYTES = 65535
_CLOSED_RATE_BYTES_PER_S = 15_500
# A packet costs 4228 ms at that rate. Packets above 63,984 bytes are cut into their segments.
_CLOSED_BUCKET_NS = _MINIMUM_PACKET_BYTES * 10**9 // _CLOSED_RATE_BYTES_PER_S - TIMER_NS
_OPEN_RATE_BYTES_PER_S = 8 << 30
_OPEN_BUCKET_NS = 1_000_000
# A device's queue and a CPU's backlog both take 1,000 packets by default; the bucket holds 250.
_PACED_PACKETS_PER_S = 250_000
_PACED_RATE_BYTES_PER_S = 1_125_000_000
_PACED_SHARE = 0.9

# 6.16 stops the queue of a veth whose ring is full; 6.18 never forgets to start it again.
_STOPS_WHEN_FULL = (6, 18)
_SIOCETHTOOL, _ETHTOOL_STSO, _ETHTOOL_SGRO = 0x8946, 0x1F, 0x2C

# The far end drops the frame, and class E addresses are nobody's.
_KICKED_NEIGHBOUR = bytes([240, 0, 0, 1])
_MTU_BYTES = 65535
_NO_IPV6_ADDRESS = 1
_ERRNO_AT = 16
_REPLY_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Plug:
    """The two ends' interface indices; packets go in at the near end."""

    near_ifindex: int
    far_ifindex: int


def names_of(hold_id: str) -> tuple[str, str]:
    """The near and the far end's interface names, which follow from the hold's id."""
    digest = hashlib.sha256(hold_id.encode()).hexdigest()[:10]
    return f"pfh{digest}a", f"pfh{digest}b"


def create(hold_id: str, limit_bytes: int) -> Plug:
    """Makes the devices, closed and up.

    Raises:
        NativeError: the kernel refuses; what was made `remove` takes away.
    """
    near_name, far_name = names_of(hold_id)
    # One queue: packets leave in the order in which they came, whatever the CPU.
    queues = {"num_tx_queues": 1, "num_rx_queues": 1}
    try:
        with IPRoute() as route:
            route.link(
                "add",
                ifname=near_name,
                kind="veth",
                mtu=_MTU_BYTES,
                **queues,
                peer={"ifname": far_name, "mtu": _MTU_BYTES, **queues},
            )
            near, far = (route.link_lookup(ifname=name)[0] for name in (near_name, far_name))
            for index in (near, far):
                _quieten(route, index, hold_id)
            if keeps_order_over_cpus():
                _set_feature(near_name, _ETHTOOL_STSO, 0)
                _set_feature(far_name, _ETHTOOL_SGRO, 1)
            send([_tbf(near, limit_bytes, is_open=False, create=True), rtnetlink.ask_once(near)])
            for index in (near, far):
                route.link("set", index=index, state="up")
    except NetlinkError as error:
        raise NativeError(
            f"cannot make the plug {near_name}: {error}", errno_value=error.code
        ) from error
    return Plug(near, far)


def _quieten(route: IPRoute, index: int, hold_id: str) -> None:
    """No address of its own, so that the kernel has nothing to say on it."""
    mode = {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", _NO_IPV6_ADDRESS)]}
    route.link("set", index=index, IFLA_AF_SPEC={"attrs": [("AF_INET6", mode)]})
    route.link("set", index=index, ifalias=f"podferry hold {hold_id}")


def keeps_order_over_cpus() -> bool:
    """Whether packets that CPUs take out in turns stay in order; else it holds for each CPU."""
    release = tuple(int(number) for number in re.findall(r"\d+", os.uname().release)[:2])
    return release >= _STOPS_WHEN_FULL


def _set_feature(name: str, command: int, value: int) -> None:
    """Writes an offload feature (struct ethtool_value) of a device."""
    setting = ctypes.create_string_buffer(struct.pack("=II", command, value))
    request = struct.pack("16sP", name.encode(), ctypes.addressof(setting)) + bytes(16)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            fcntl.ioctl(any_socket, _SIOCETHTOOL, request)
        except OSError as error:
            raise NativeError(
                f"cannot set feature {command} of {name}: {error}", errno_value=error.errno or 0
            ) from error


def remove(hold_id: str) -> None:
    """Takes the devices away, with what is in them; nothing if there are none."""
    with IPRoute() as route:
        for name in names_of(hold_id):
            for index in route.link_lookup(ifname=name):
                try:
                    route.link("delete", index=index)
                except NetlinkError as error:
                    if error.code not in (errno.ENODEV, errno.EINVAL):
                        raise NativeError(
                            f"cannot remove the plug {name}: {error}", errno_value=error.code
                        ) from error


def exists(hold_id: str) -> bool:
    """Whether one of the devices is there."""
    return any(name in _interfaces() for name in names_of(hold_id))


def _interfaces() -> set[str]:
    return {name for _, name in socket.if_nameindex()}


def kick(near_ifindex: int) -> None:
    """Has the kernel send a frame of its own into the plug, on this thread's CPU."""
    _forget(near_ifindex)
    send([rtnetlink.resolve(near_ifindex, _KICKED_NEIGHBOUR)])


def _forget(near_ifindex: int) -> None:
    """The last frame's request may still be waiting for its answer; no other leaves then."""
    send([rtnetlink.forget(near_ifindex, _KICKED_NEIGHBOUR)], ignored=(errno.ENOENT,))


def close(near_ifindex: int, limit_bytes: int) -> None:
    """Lets nothing through from now on."""
    _forget(near_ifindex)
    send([_tbf(near_ifindex, limit_bytes, is_open=False)])


def stopping_up(ifindex: int, limit_bytes: int) -> bytes:
    """The message that gives any device a qdisc which lets nothing through."""
    return _tbf(ifindex, limit_bytes, is_open=False, create=True)


def opening(
    near_ifindex: int, limit_bytes: int, rate_bytes_per_s: int = _OPEN_RATE_BYTES_PER_S
) -> tuple[bytes, ...]:
    """The messages that let everything through, for an rtnetlink socket of this namespace.

    Args:
        near_ifindex: the plug's end with the qdisc.
        limit_bytes: what waits at most.
        rate_bytes_per_s: how fast, where what comes after has a queue that may overflow: short
            packets then count as long ones.
    """
    paced = rate_bytes_per_s < _OPEN_RATE_BYTES_PER_S
    return (
        rtnetlink.tbf(
            near_ifindex,
            rate_bytes_per_s=rate_bytes_per_s,
            bucket_ns=_OPEN_BUCKET_NS,
            minimum_packet_bytes=rate_bytes_per_s // _PACED_PACKETS_PER_S if paced else 0,
            limit_bytes=limit_bytes,
            create=False,
        ),
        rtnetlink.resolve(near_ifindex, _KICKED_NEIGHBOUR),
    )


def _tbf(ifindex: int, limit_bytes: int, *, is_open: bool, create: bool = False) -> bytes:
    return rtnetlink.tbf(
        ifindex,
        rate_bytes_per_s=_OPEN_RATE_BYTES_PER_S if is_open else _CLOSED_RATE_BYTES_PER_S,
        bucket_ns=_OPEN_BUCKET_NS if is_open else _CLOSED_BUCKET_NS,
        minimum_packet_bytes=0 if is_open else _MINIMUM_PACKET_BYTES,
        limit_bytes=limit_bytes,
        create=create,
    )


def send(messages: Iterable[bytes], *, ignored: Iterable[int] = ()) -> None:
    """Sends rtnetlink messages one after the other, each after the other's acknowledgement.

    Raises:
        NativeError: the kernel refuses one, with an errno that is not among ``ignored``.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0) as netlink:
        for message in messages:
            netlink.send(message)
            (code,) = struct.unpack_from("=i", netlink.recv(_REPLY_BYTES), _ERRNO_AT)
            if code and -code not in ignored:
                kind = struct.unpack_from("=H", message, 4)[0]
                raise NativeError(
                    f"rtnetlink message {kind}: {os.strerror(-code)}", errno_value=-code
                )


def pace_of(device: str) -> int:
    """How fast packets may be let into a device so that none overflows its queue, in bytes/s."""
    try:
        megabits_per_s = int(Path(f"/sys/class/net/{device}/speed").read_text("ascii"))
    except (OSError, ValueError):  # not every device tells
        megabits_per_s = 0
    if megabits_per_s <= 0:
        return _PACED_RATE_BYTES_PER_S
    return min(_PACED_RATE_BYTES_PER_S, int(megabits_per_s * 125_000 * _PACED_SHARE))


def bridge_of(ifindex: int) -> tuple[int, bytes] | None:
    """The index and the MAC of the bridge that a device is a port of; None if it is of none."""
    with IPRoute() as route:
        try:
            master = route.get_links(ifindex)[0].get_attr("IFLA_MASTER")
            if not master:
                return None
            mac = route.get_links(master)[0].get_attr("IFLA_ADDRESS")
        except NetlinkError:  # gone: nothing comes from it any more
            return None
    return master, bytes.fromhex(mac.replace(":", ""))


def link_facts(ifindex: int) -> dict[str, Any] | None:
    """A device's name, kind and the index of its other end; None if there is no such device."""
    with IPRoute() as route:
        try:
            message = route.get_links(ifindex)[0]
        except NetlinkError as error:
            if error.code == errno.ENODEV:
                return None
            raise NativeError(f"device {ifindex}: {error}", errno_value=error.code) from error
        info = message.get_attr("IFLA_LINKINFO")
        return {
            "name": message.get_attr("IFLA_IFNAME"),
            "kind": info.get_attr("IFLA_INFO_KIND") if info else "",
            "peer_ifindex": message.get_attr("IFLA_LINK") or 0,
        }
