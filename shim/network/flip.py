# SPDX-License-Identifier: Apache-2.0
"""Points one node at where a pod is now: the kernel's route, the uplink's programs, the bridge.

The same call serves S (after its hold is drained), the other nodes, a node the pod passes through,
and S again when it comes back. docs/reroute.md says in which order the nodes are flipped.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from pathlib import Path

import msgspec
from pyroute2 import IPRoute

from shim._native_reroute import XdpMode
from shim._native_target import Address
from shim.errors import Refused
from shim.network import announce, nat, reroute, routes, rtnetlink
from shim.network import via as ways
from shim.network.addresses import Prepared
from shim.network.reroute import BPF_ROOT, shared
from shim.network.via import Via


class Pointed(msgspec.Struct, frozen=True, kw_only=True):
    """An address that this node sends elsewhere: epoch, way, and what has gone there."""

    address: str
    epoch: int
    next_hop: str
    device: str
    tunnel: bool
    tentative: bool
    packets: int


def ready(vias: Iterable[Via], *, root: Path = BPF_ROOT, xdp: XdpMode | None = None) -> None:
    """Prepares this node to send to others and to be sent to; may be called again.

    Call it before the freeze: the first call loads programs (about 50 ms). Packets of this node
    that come back from T by another device than its answers leave by are accepted.

    Args:
        vias: ways to the other nodes of a move.
        root: a bpf file system.
        xdp: see `Reroute.attach_uplink`.

    Raises:
        MissingFeature: the kernel has no tcx.
    """
    known = tuple(vias)
    programs = shared(root)
    programs.know(via.address for via in known if not via.local)
    for device in sorted({via.device for via in known if not via.local}):
        programs.attach_uplink(device, xdp)
        routes.believe_asymmetry(device)


def expect(prepared: Prepared, epoch: int, *, root: Path = BPF_ROOT) -> None:
    """On T, before the commit: takes packets of this node's own that come back from S.

    They bear T's address as their source, and a kernel drops such as forged. Also has tunnels
    opened that bring packets for the pod.
    """
    programs = shared(root)
    for old in map(ipaddress.ip_address, prepared.old):
        via = ways.choose(prepared.via(), old.version)
        if via is not None:
            programs.point(old, via, epoch)


def point(address: Address, vias: Iterable[Via], epoch: int, *, root: Path = BPF_ROOT) -> bool:
    """Sends packets for a moved pod where it is now; may be called again.

    On a node whose bridge the pod stood on, the bridge also answers for it from now on.

    Args:
        address: the pod's old one.
        vias: ways to its node, or the local way on the node itself.
        epoch: of the move; False is returned, and nothing done, if a later one is known.

    Raises:
        Refused: no way carries packets of the address's IP version.
    """
    via = _choose(address, vias)
    programs = shared(root)
    if not programs.point(address, via, epoch):
        return False
    before = home_of(address)
    nat.loosen([address])
    routes.point(address, via)
    if before is not None and before != via.device:
        routes.answer_for(address, before)
        announce.answer(address, before)
    return True


def tentative(
    address: Address, vias: Iterable[Via], epoch: int, lease_s: float, *, root: Path = BPF_ROOT
) -> bool:
    """Before the commit, on a peer: as `point`, for what arrives alone, and it ends by itself.

    Args:
        lease_s: when, in seconds, unless `point` confirms it.
    """
    via = _choose(address, vias)
    programs = shared(root)
    return programs.point(address, via, epoch, lease_s=lease_s)


def clear(address: Address, epoch: int | None = None, *, root: Path = BPF_ROOT) -> bool:
    """Takes off what this node does for an address and its flows; may be called again.

    Args:
        epoch: False is returned, and nothing done, if what stands is of a later one.
    """
    programs = shared(root)
    if not programs.clear(address, epoch):
        return False
    for flow in programs.flows():
        if address in (flow.source, flow.destination):
            programs.clear(flow)
    routes.clear(address)
    home = home_of(address)
    if home is not None:
        routes.answer_no_more(address, home)
    return True


def listed(*, root: Path = BPF_ROOT) -> list[Pointed]:
    """Every address that this node sends elsewhere."""
    if not (root / reroute.PIN_FOLDER).exists():
        return []
    programs = shared(root)
    entries = programs.addresses()
    return [
        Pointed(
            address=str(address),
            epoch=entry.epoch,
            next_hop=str(entry.target.next_hop),
            device=_name_of(entry.target.ifindex),
            tunnel=entry.target.source is not None,
            tentative=bool(entry.expires_ns),
            packets=entry.packets,
        )
        for address, entry in sorted(entries.items(), key=lambda one: str(one[0]))
    ]


def remove_all(*, root: Path = BPF_ROOT) -> list[str]:
    """Takes off everything of this module, for all addresses; says what it was."""
    gone = []
    for one in routes.listed():
        routes.clear(one.address)
        home = home_of(one.address)
        if home is not None:
            routes.answer_no_more(one.address, home)
        gone.append(f"route to {one.address} through {one.device}")
    if (root / reroute.PIN_FOLDER).exists():
        gone += [f"rerouting of {one.address}" for one in listed(root=root)]
        reroute.remove(root)
        gone.append("rerouting programs")
    return gone


def home_of(address: Address) -> str | None:
    """The device behind which an address's own range lies on this node; None for another node's.

    Host routes of ours do not count.
    """
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    best, length = None, -1
    with IPRoute() as route:
        for one in route.get_routes(family=family, table=254):
            if one.get_attr("RTA_GATEWAY") or one.get_attr("RTA_VIA") or one["type"] != 1:
                continue
            if one["proto"] == rtnetlink.ROUTE_PROTOCOL or not one.get_attr("RTA_DST"):
                continue
            network = ipaddress.ip_network(f"{one.get_attr('RTA_DST')}/{one['dst_len']}")
            if address in network and network.prefixlen > length:
                best, length = one.get_attr("RTA_OIF"), network.prefixlen
    return _name_of(best) or None if best else None


def _choose(address: Address, vias: Iterable[Via]) -> Via:
    via = ways.choose(vias, address.version)
    if via is None:
        raise Refused(f"no way is given for IPv{address.version} packets", where=str(address))
    return via


def _name_of(ifindex: int) -> str:
    try:
        return socket.if_indextoname(ifindex)
    except OSError:
        return ""
