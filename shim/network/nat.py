# SPDX-License-Identifier: Apache-2.0
"""Owns what moves with a pod's connections from node to node: their entries of connection tracking.

Without its entry a flow's first packet on T looks new, T's masquerading rewrites it, and the client
resets. Flows that the source itself rewrites go on through it: shim.core.flows says which.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path

from shim import _native_hold as native
from shim._native_reroute import FlowKey
from shim._native_target import Address
from shim.core.flows import Fate, Flow, Tuple, judge
from shim.network import ctnetlink
from shim.network import via as ways
from shim.network.addresses import Prepared
from shim.network.reroute import BPF_ROOT, PIN_FOLDER, shared
from shim.network.via import Via


def read(pod: Iterable[Address], node: Address, *, root: Path = BPF_ROOT) -> list[Flow]:
    """Every open flow of a pod that this node tracks; call it with the hold armed.

    Args:
        pod: its addresses.
        node: this node's own address, as the others know it.
        root: a bpf file system; flows that already go through another node keep that anchor.

    Raises:
        NativeError: connection tracking cannot be read.
    """
    addresses = [str(one) for one in pod]
    anchors = _anchors(root)
    found = []
    for entry in ctnetlink.dump(addresses, open_only=True):
        flow = judge(entry, addresses, str(node))
        if flow is None:
            continue
        anchor = anchors.get(_flow_key(entry.protocol, flow.outgoing))
        if anchor is not None and flow.fate is Fate.KEPT:
            flow = Flow(
                fate=Fate.ANCHORED,
                entry=flow.entry,
                outgoing=flow.outgoing,
                anchor=anchor,
                reason="it has gone through that node since an earlier move",
            )
        found.append(flow)
    return found


def write(
    flows: Sequence[Flow],
    prepared: Prepared,
    anchors: Mapping[str, Sequence[Via]],
    epoch: int,
    *,
    root: Path = BPF_ROOT,
) -> list[Flow]:
    """On T, before the release and after `loosen`: takes the flows over; may be called again.

    Args:
        flows: as S has read them.
        prepared: the new pod.
        anchors: this node's ways to the nodes that flows are anchored at, by address.
        epoch: of the move.
        root: a bpf file system.

    Returns:
        The flows that are not kept: those that cannot be, and those whose anchor has no way.
    """
    kept = [flow for flow in flows if flow.fate is not Fate.LOST]
    lost = [flow for flow in flows if flow.fate is Fate.LOST]
    ctnetlink.create(flow.entry for flow in kept)
    anchored = [flow for flow in kept if flow.fate is Fate.ANCHORED]
    if not anchored:
        return lost
    programs = shared(root)
    inner = native.find_device(Path(prepared.netns), ip_address(prepared.new[0]))
    programs.attach_pod(inner.peer_ifindex)
    for flow in anchored:
        key = _flow_key(flow.entry.protocol, flow.outgoing)
        via = ways.choose(anchors.get(flow.anchor, ()), key.source.version)
        if via is None:
            lost.append(flow)
        else:
            programs.point(key, via, epoch)
    return lost


def loosen(pod: Iterable[Address]) -> None:
    """On every node that a pod's packets have crossed: its tracking lets them go another way.

    `flip.point` does it; on S it is also called with the forwarding, on T before the freeze, which
    has no time for it (the kernel walks its whole table), and once more when the pod runs.
    """
    ctnetlink.loosen(ctnetlink.dump([str(one) for one in pod]))


def forget(pod: Iterable[Address], *, root: Path = BPF_ROOT) -> None:
    """Deletes every entry of a pod's addresses, and where its flows go; nothing if none is."""
    addresses = [str(one) for one in pod]
    ctnetlink.delete(ctnetlink.dump(addresses))
    if not (root / PIN_FOLDER).exists():
        return
    programs = shared(root)
    for key in programs.flows():
        if str(key.source) in addresses:
            programs.clear(key)


def _anchors(root: Path) -> dict[FlowKey, str]:
    if not (root / PIN_FOLDER).exists():
        return {}
    programs = shared(root)
    return {key: str(entry.target.next_hop) for key, entry in programs.flows().items()}


def _flow_key(protocol: int, out: Tuple) -> FlowKey:
    return FlowKey(
        protocol,
        ip_address(out.source),
        out.source_port,
        ip_address(out.destination),
        out.destination_port,
    )
