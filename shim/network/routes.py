# SPDX-License-Identifier: Apache-2.0
"""Owns this node's kernel routes to moved pods: one host route per address, marked as ours.

They are in the main table with protocol 112 and metric 64; nothing else is touched. A node whose
bridge the pod once stood on also answers for it there, so that its neighbours still find it.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from dataclasses import dataclass

from pyroute2 import IPRoute

from shim._native_target import Address
from shim.network import netns, plug, rtnetlink
from shim.network.via import Via


@dataclass(frozen=True, slots=True)
class Route:
    """A route of ours: the address, the device, the next hop ("" for none), the MTU (0 for any)."""

    address: Address
    device: str
    gateway: str
    mtu: int


def point(address: Address, via: Via) -> None:
    """Has the kernel send packets for an address another way; may be called again.

    Raises:
        Refused: the way's device is gone.
        NativeError: the kernel refuses.
    """
    plug.send(messages(address, via))


def messages(address: Address, via: Via) -> list[bytes]:
    """What `point` sends, for whoever must do it fast.

    Raises:
        Refused: the way's device is gone.
    """
    route = rtnetlink.host_route(address, via.target().ifindex, via.next_hop, via.mtu)
    return [*via.neighbour(), route]


def limit(address: Address, ifindex: int, mtu_bytes: int) -> bytes:
    """The message that leaves an address where it is but refuses longer packets to their senders.

    Args:
        address: a pod's that still is, or was, behind the device.
        ifindex: the device.
        mtu_bytes: the longest packet.
    """
    return rtnetlink.host_route(address, ifindex, None, mtu_bytes)


def clear(address: Address) -> None:
    """Takes our route to an address away; nothing if there is none."""
    plug.send([rtnetlink.no_host_route(address)], ignored=(errno.ESRCH,))


def listed() -> list[Route]:
    """Every route of ours."""
    found = []
    with IPRoute() as route:
        for family in (socket.AF_INET, socket.AF_INET6):
            for one in route.get_routes(family=family, proto=rtnetlink.ROUTE_PROTOCOL):
                if one["proto"] == rtnetlink.ROUTE_PROTOCOL:
                    found.append(_of(one))
    return found


def _of(one: object) -> Route:
    def get(name: str) -> object:
        return one.get_attr(name)  # type: ignore[attr-defined]

    via = get("RTA_VIA")
    metrics = get("RTA_METRICS")
    return Route(
        ipaddress.ip_address(str(get("RTA_DST"))),
        _name_of(get("RTA_OIF")),
        str(get("RTA_GATEWAY") or (via["addr"] if isinstance(via, dict) else "")),
        int(metrics.get_attr("RTAX_MTU") or 0) if metrics is not None else 0,  # type: ignore[attr-defined]
    )


def _name_of(ifindex: object) -> str:
    try:
        return socket.if_indextoname(int(str(ifindex)))
    except (OSError, ValueError):
        return ""


def answer_for(address: Address, bridge: str) -> None:
    """Has a bridge's neighbours find an address here, once the pod's own namespace is gone.

    Raises:
        NativeError: the kernel refuses.
    """
    if address.version == 6:
        netns.write_setting(f"net/ipv6/conf/{bridge}/proxy_ndp", "1")
    # The kernel delays a proxy's answer by up to 0.8 s, to let others be first; there are none.
    family = "ipv4" if address.version == 4 else "ipv6"
    netns.write_setting(f"net/{family}/neigh/{bridge}/proxy_delay", "0")
    plug.send([rtnetlink.proxy(address, socket.if_nametoindex(bridge))])


def answer_no_more(address: Address, bridge: str) -> None:
    """Ends `answer_for`; nothing if it was never begun, or the bridge is gone."""
    try:
        index = socket.if_nametoindex(bridge)
    except OSError:
        return
    plug.send([rtnetlink.no_proxy(address, index)], ignored=(errno.ENOENT, errno.ENODEV))


def lower_mtu(ifindex: int, mtu_bytes: int) -> None:
    """Has this thread's namespace send nothing longer through a device's gateways.

    The device's own MTU stays: a veth drops what is longer than its receiver's.
    """
    with IPRoute() as route:
        for family in (socket.AF_INET, socket.AF_INET6):
            for one in route.get_routes(family=family, oif=ifindex):
                if one.get_attr("RTA_GATEWAY") is None:
                    continue
                wanted = {
                    "dst": one.get_attr("RTA_DST") or ("::" if family == socket.AF_INET6 else ""),
                    "dst_len": one["dst_len"],
                    "family": family,
                    "gateway": one.get_attr("RTA_GATEWAY"),
                    "oif": ifindex,
                    "priority": one.get_attr("RTA_PRIORITY"),
                    "proto": one["proto"],
                    "metrics": {"mtu": mtu_bytes},
                }
                route.route("replace", **{key: value for key, value in wanted.items() if value})


def believe_asymmetry(device: str) -> None:
    """Accepts packets whose answers would leave elsewhere, on one device (RFC 3704, loose).

    A moved pod's own packets come from T, while the route to its address may still lead to its old
    bridge.
    """
    netns.write_setting(f"net/ipv4/conf/{device}/rp_filter", "2")
