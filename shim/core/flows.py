# SPDX-License-Identifier: Apache-2.0
"""Which of a moving pod's connections can be kept, and how: decided from the source's NAT entries.

A node's connection tracking knows each flow by two tuples: how its first sender sends, and how the
answers come in. Where one is not the other turned round, the node rewrites addresses. No I/O here.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable

import msgspec


class Tuple(msgspec.Struct, frozen=True):
    """One direction of a flow: addresses as text, ports 0 where the protocol has none."""

    source: str
    source_port: int
    destination: str
    destination_port: int

    def turned(self) -> Tuple:
        """The other direction, if nobody rewrites anything."""
        return Tuple(self.destination, self.destination_port, self.source, self.source_port)

    @property
    def sender(self) -> tuple[str, int]:
        """The source's address and port."""
        return self.source, self.source_port

    @property
    def receiver(self) -> tuple[str, int]:
        """The destination's address and port."""
        return self.destination, self.destination_port


class Entry(msgspec.Struct, frozen=True):
    """An entry of connection tracking.

    Attributes:
        protocol: by number.
        original: as the first sender sends.
        reply: as the answers come in.
        timeout_s: how long it is kept without a packet.
        tcp_state: the kernel's number (enum tcp_conntrack), 0 for other protocols.
        tcp_scales: the window scales of the original and of the answering side.
    """

    protocol: int
    original: Tuple
    reply: Tuple
    timeout_s: int
    tcp_state: int = 0
    tcp_scales: tuple[int, int] = (0, 0)

    @property
    def rewrites_source(self) -> bool:
        """Whether answers go to another than the first sender (SNAT, masquerade)."""
        return self.reply.receiver != self.original.sender

    @property
    def rewrites_destination(self) -> bool:
        """Whether answers come from another than was spoken to (DNAT)."""
        return self.reply.sender != self.original.receiver


class Fate(enum.StrEnum):
    """What becomes of a flow.

    Attributes:
        KEPT: it goes on from the new node, with the same entry there.
        ANCHORED: it goes on through the node whose entry rewrites it, while that node lives.
        LOST: it ends.
    """

    KEPT = "kept"
    ANCHORED = "anchored"
    LOST = "lost"


class Flow(msgspec.Struct, frozen=True, kw_only=True):
    """A flow of a moving pod.

    Attributes:
        fate: what becomes of it.
        entry: what the new node's connection tracking is given.
        outgoing: as the pod sends.
        anchor: the node through which it goes on; "" without one.
        reason: why it is not simply kept, for people; "" if it is.
    """

    fate: Fate
    entry: Entry
    outgoing: Tuple
    anchor: str = ""
    reason: str = ""


def judge(entry: Entry, pod: Collection[str], node: str) -> Flow | None:
    """What becomes of the flow of an entry; None if it is none of the pod's.

    Args:
        entry: of the source's connection tracking.
        pod: the pod's addresses.
        node: the source's own address, by which it is an anchor.
    """
    begins, answers = entry.original.source in pod, entry.reply.source in pod
    if begins and answers:
        return Flow(
            fate=Fate.LOST,
            entry=entry,
            outgoing=entry.original,
            reason="the pod speaks to itself through a Service",
        )
    if begins:
        return _outgoing(entry, node)
    if answers:
        return _incoming(entry, node)
    return None


def _outgoing(entry: Entry, node: str) -> Flow:
    if not entry.rewrites_source:
        return Flow(fate=Fate.KEPT, entry=entry, outgoing=entry.original)
    return Flow(
        fate=Fate.ANCHORED,
        entry=msgspec.structs.replace(entry, reply=entry.original.turned()),
        outgoing=entry.original,
        anchor=node,
        reason=f"its peer knows the pod as {entry.reply.destination}",
    )


def _incoming(entry: Entry, node: str) -> Flow:
    plain = msgspec.structs.replace(entry, original=entry.reply.turned())
    if not entry.rewrites_destination or entry.rewrites_source:
        # Where the source is rewritten too, the answers go to the rewriting node by themselves.
        anchor = node if entry.rewrites_source else ""
        reason = f"its client came by {entry.original.destination} of that node" if anchor else ""
        fate = Fate.ANCHORED if anchor else Fate.KEPT
        return Flow(fate=fate, entry=plain, outgoing=entry.reply, anchor=anchor, reason=reason)
    return Flow(
        fate=Fate.ANCHORED,
        entry=plain,
        outgoing=entry.reply,
        anchor=node,
        reason=f"its client speaks to {entry.original.destination}, which that node translates",
    )


def told(flows: Iterable[Flow]) -> list[str]:
    """One line for each flow that is not simply kept, for preflight and results."""
    lines = []
    for flow in flows:
        if flow.fate is Fate.KEPT:
            continue
        out = flow.outgoing
        ends = f"{out.source}:{out.source_port} to {out.destination}:{out.destination_port}"
        until = f"kept while {flow.anchor} lives" if flow.fate is Fate.ANCHORED else "ends"
        lines.append(f"{ends}: {until}: {flow.reason}")
    return lines
