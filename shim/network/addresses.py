# SPDX-License-Identifier: Apache-2.0
"""Owns a moved pod's old address in its new namespace: there before the move, seen after it.

Before the commit nothing outside the namespace knows of it: clients on T must still reach S.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Iterable
from pathlib import Path

import msgspec
from pyroute2 import IPRoute

from shim import _native_hold as native
from shim._native_target import Address
from shim.errors import Refused
from shim.network import plug, routes, rtnetlink
from shim.network.netns import within, write_setting
from shim.network.via import Via, local, warm_gateways

_LOOPBACK = 1
_MAIN = 254


class Prepared(msgspec.Struct, frozen=True, kw_only=True):
    """What stands ready in a new pod's namespace.

    Attributes:
        netns: the namespace's file.
        old: the addresses that the pod brings with it.
        new: the addresses that CNI gave it.
        device: what the host reaches it by: the bridge, or its veth where there is none.
        mac: the pod's.
        messages: what `expose` sends.
    """

    netns: str
    old: tuple[str, ...]
    new: tuple[str, ...]
    device: str
    mac: bytes
    messages: tuple[bytes, ...]

    def via(self) -> tuple[Via, ...]:
        """The ways to the pod on this node, for a hold that forwards to it."""
        return tuple(local(ipaddress.ip_address(new), self.device, self.mac) for new in self.new)


def prepare(
    netns: Path, old: Iterable[Address], new: Iterable[Address], *, mtu: int = 0
) -> Prepared:
    """Puts the old addresses into a namespace whose pod does not run yet; may be called again.

    They stand on its loopback, deprecated, so that nothing chooses them by itself; the namespace
    neither asks for neighbours in their name nor answers when neighbours ask for them.

    Args:
        netns: the new sandbox's namespace.
        old: the addresses that the pod brings with it.
        new: those that CNI gave; one of the same IP version for each old one.
        mtu: what the namespace may send, in bytes, where some of its packets go through a tunnel;
            0 leaves it.

    Raises:
        Refused: an old address has no new one of its IP version.
        NativeError: the kernel refuses.
    """
    olds, news = tuple(old), tuple(new)
    inner = native.find_device(netns, news[0])
    within(netns, lambda: _arrange(olds, inner.ifindex, mtu))
    bridge = plug.bridge_of(inner.peer_ifindex)
    device = socket.if_indextoname(bridge[0] if bridge else inner.peer_ifindex)
    return Prepared(
        netns=str(netns),
        old=tuple(map(str, olds)),
        new=tuple(map(str, news)),
        device=device,
        mac=inner.mac,
        messages=tuple(
            message
            for one in olds
            for message in routes.messages(one, local(_beside(one, news), device, inner.mac))
        ),
    )


def expose(prepared: Prepared) -> None:
    """Has this node send packets for the old addresses to the pod; may be called again.

    Call it at the commit, before T's hold is released. Sends two messages per address.
    """
    plug.send(prepared.messages)


def withdraw(prepared: Prepared) -> None:
    """Takes the routes and the addresses away again; nothing if they are gone, or the pod is."""
    for old in prepared.old:
        routes.clear(ipaddress.ip_address(old))
    if not Path(prepared.netns).exists():
        return
    messages = [rtnetlink.no_address(ipaddress.ip_address(one), _LOOPBACK) for one in prepared.old]
    within(
        Path(prepared.netns),
        lambda: plug.send(messages, ignored=(errno.EADDRNOTAVAIL,)),
    )


def _beside(old: Address, news: tuple[Address, ...]) -> Address:
    for one in news:
        if one.version == old.version:
            return one
    raise Refused(
        f"the new pod has no IPv{old.version} address beside it",
        where=str(old),
        remedy="give T's pods addresses of both families",
    )


def _arrange(olds: tuple[Address, ...], ifindex: int, mtu: int) -> None:
    name = socket.if_indextoname(ifindex)
    # ARP requests bear an address of the device they leave by, and only such are answered for.
    write_setting(f"net/ipv4/conf/{name}/arp_announce", "2")
    write_setting(f"net/ipv4/conf/{name}/arp_ignore", "1")
    write_setting(f"net/ipv4/conf/{name}/rp_filter", "2")
    write_setting("net/mptcp/enabled", "0", optional=True)
    plug.send([rtnetlink.silent_address(one, _LOOPBACK) for one in olds])
    # The pod's first packet must not wait for its gateway's MAC: neighbour discovery for a foreign
    # source waits for the link-local address, a second after the device came up.
    warm_gateways(ifindex)
    if mtu:
        routes.lower_mtu(ifindex, mtu)
    _speak_as(olds, ifindex)


def _speak_as(olds: tuple[Address, ...], ifindex: int) -> None:
    """What the pod says without having chosen a source comes from its old address, as before.

    A server of datagrams on all addresses answers that way, and its client takes no other.
    """
    with IPRoute() as route:
        for old in olds:
            family = socket.AF_INET if old.version == 4 else socket.AF_INET6
            for one in route.get_routes(family=family, oif=ifindex, table=_MAIN):
                wanted = {"family": family, "oif": ifindex, "table": _MAIN, "prefsrc": str(old)}
                gateway, target = one.get_attr("RTA_GATEWAY"), one.get_attr("RTA_DST")
                if gateway:
                    wanted["gateway"] = gateway
                elif family == socket.AF_INET6:
                    continue  # neighbours of the link are spoken to as the link has it
                if target:
                    wanted["dst"] = f"{target}/{one['dst_len']}"
                elif not gateway:
                    continue
                else:
                    wanted["dst"] = "default"
                if one["scope"]:
                    wanted["scope"] = one["scope"]
                wanted["proto"] = one["proto"]
                route.route("replace", **wanted)
