# SPDX-License-Identifier: Apache-2.0
"""Owns the way from this node to another: found from the kernel's routes before it is needed.

A node on the same link is reached by writing its MAC into the frames; one behind a router by
IP-in-IP. docs/reroute.md says what each costs.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterable
from ipaddress import ip_address

import msgspec
from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from shim._native_target import Address, Kind, Target
from shim.errors import InvalidInput, NativeError, Refused, Unavailable
from shim.network import rtnetlink

_NEIGHBOUR_WAIT_S = 3.0
_NEIGHBOUR_STEP_S = 0.002
# NUD_REACHABLE, NUD_STALE, NUD_DELAY, NUD_PROBE, NUD_NOARP, NUD_PERMANENT: the MAC is known.
_NUD_KNOWN = 0x02 | 0x04 | 0x08 | 0x10 | 0x40 | 0x80
_IFF_NOARP = 0x80
_NTF_USE, _NTF_PROXY = 0x01, 0x08
_HEADER_BYTES = {4: 20, 6: 40}


class Via(msgspec.Struct, frozen=True, kw_only=True):
    """A way to where a pod is now.

    Attributes:
        node: the neighbour's address (without a tunnel), or the tunnel's far end.
        device: through which packets leave.
        tunnel: whether they go in IP-in-IP.
        source: the tunnel's near end; "" without one.
        gateway: the router in front of the tunnel's far end; "" without one.
        mac: the next hop's, "" where the device needs none.
        mtu: the longest packet of the pod that fits, in bytes, without tunnel headers; 0 for what
            the device takes.
        local: whether it is the way to a pod of this very node.
    """

    node: str
    device: str
    tunnel: bool = False
    source: str = ""
    gateway: str = ""
    mac: str = ""
    mtu: int = 0
    local: bool = False

    @property
    def address(self) -> Address:
        """The node's address."""
        return ip_address(self.node)

    def carries(self, version: int) -> bool:
        """Whether packets of an IP version can go this way; IPv6 has no IPv4 neighbours."""
        return self.tunnel or version == 4 or self.address.version == 6

    @property
    def next_hop(self) -> Address:
        """Who gets the frames."""
        return ip_address(self.gateway or self.node)

    def neighbour(self) -> list[bytes]:
        """The rtnetlink messages that make sure that no packet has to wait for the next hop's MAC.

        Raises:
            Refused: the device is gone.
        """
        if not self.mac:
            return []
        index, mac = self.target().ifindex, bytes.fromhex(self.mac.replace(":", ""))
        return [rtnetlink.known_neighbour(index, self.next_hop, mac)]

    def target(self) -> Target:
        """What the BPF programs are told.

        Raises:
            Refused: the device is gone.
        """
        try:
            ifindex = socket.if_nametoindex(self.device)
        except OSError as error:
            raise Refused(
                f"there is no device {self.device}", where=self.node, remedy="find the way again"
            ) from error
        return Target(
            kind=Kind.TUNNEL if self.tunnel else Kind.LINK,
            ifindex=ifindex,
            next_hop=self.address,
            source=ip_address(self.source) if self.source else None,
            mtu_bytes=self.mtu,
        )


def find(node: Address, *, tunnel: bool | None = None) -> Via:
    """The way to another node; waits until the next hop's MAC is known.

    Args:
        node: its address on the nodes' network.
        tunnel: whether IP-in-IP is used; None: where the node is behind a router.

    Raises:
        InvalidInput: it is this node's own address.
        Unavailable: there is no route, or the next hop does not answer within 3 s.
    """
    with IPRoute() as route:
        try:
            (found,) = route.route("get", dst=str(node))
        except NetlinkError as error:
            raise Unavailable(f"there is no route to it: {error}", where=str(node)) from error
        if found["type"] != 1:  # RTN_UNICAST
            raise InvalidInput("this is no other node's address", where=str(node))
        index = found.get_attr("RTA_OIF")
        gateway = found.get_attr("RTA_GATEWAY") or ""
        source = found.get_attr("RTA_PREFSRC") or ""
        link = route.get_links(index)[0]
        in_tunnel = bool(gateway) if tunnel is None else tunnel
        if gateway and not in_tunnel:
            raise Refused(f"it is behind the router {gateway}", where=str(node))
        hop = ip_address(gateway) if gateway else node
        mac = "" if link["flags"] & _IFF_NOARP else _mac_of(route, index, hop)
    overhead = _HEADER_BYTES[node.version]
    return Via(
        node=str(node),
        device=link.get_attr("IFLA_IFNAME"),
        tunnel=in_tunnel,
        source=source if in_tunnel else "",
        gateway=gateway,
        mac=mac,
        mtu=link.get_attr("IFLA_MTU") - overhead if in_tunnel else 0,
    )


def local(new: Address, device: str, mac: bytes) -> Via:
    """The way to a pod on this very node: the address that CNI gave it, its bridge, its MAC."""
    return Via(node=str(new), device=device, mac=mac.hex(":"), local=True)


def choose(vias: Iterable[Via], version: int) -> Via | None:
    """The way for packets of an IP version: one of the same version before any other."""
    fitting = [via for via in vias if via.carries(version)]
    return min(fitting, key=lambda via: via.address.version != version, default=None)


def warm_gateways(ifindex: int) -> None:
    """Waits, at most 3 s each, until the gateways of a device's routes are known by their MACs."""
    with IPRoute() as route:
        for family in (socket.AF_INET, socket.AF_INET6):
            for one in route.get_routes(family=family, oif=ifindex):
                gateway = one.get_attr("RTA_GATEWAY")
                if gateway:
                    with contextlib.suppress(Unavailable):
                        _mac_of(route, ifindex, ip_address(gateway))


def _mac_of(route: IPRoute, index: int, address: Address) -> str:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    deadline_s = time.monotonic() + _NEIGHBOUR_WAIT_S
    asked_s = 0.0
    while True:
        found = list(route.get_neighbours(family=family, ifindex=index, dst=str(address)))
        for one in found:
            if one["state"] & _NUD_KNOWN and not one["flags"] & _NTF_PROXY:
                return str(one.get_attr("NDA_LLADDR") or "")
        now_s = time.monotonic()
        if now_s > deadline_s:
            raise Unavailable("the next hop does not answer", where=str(address))
        if now_s - asked_s > 1:  # an entry that has failed asks again only when it is used again
            asked_s = now_s
            _use(route, index, family, str(address))
        time.sleep(_NEIGHBOUR_STEP_S)


def _use(route: IPRoute, index: int, family: int, address: str) -> None:
    try:
        route.neigh("replace", dst=address, ifindex=index, family=family, flags=_NTF_USE, state=0)
    except NetlinkError as error:
        raise NativeError(f"cannot ask for {address}: {error}", errno_value=error.code) from error
