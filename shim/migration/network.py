# SPDX-License-Identifier: Apache-2.0
"""The network's part of a move in the order of its phases, on either side (docs/reroute.md)."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import msgspec

from shim.core.flows import Flow
from shim.errors import MissingFeature, NotFound, PodferryError
from shim.network import addresses, flip, ipam, nat, quiesce
from shim.network import via as ways
from shim.network.addresses import Prepared
from shim.network.hold import Hold
from shim.network.via import Via

logger = logging.getLogger(__name__)

Address = IPv4Address | IPv6Address

DRAIN_S = 0.05
"""How long accept queues and unread datagrams may take to be read before the freeze."""
FORWARD_DEADLINE_S = 10.0


@dataclass(slots=True)
class Arriving:
    """The network of a pod that comes.

    Attributes:
        hold: shut until the commit.
        prepared: the addresses, the old ones silent yet.
        epoch: of the move.
        back: the way to the source, for flows that it must see.
    """

    hold: Hold
    prepared: Prepared
    epoch: int
    back: Via | None = None

    @classmethod
    def prepare(
        cls,
        sandbox_id: str,
        netns: str,
        old: Sequence[Address],
        new: Sequence[Address],
        source_address: str,
        epoch: int,
    ) -> Arriving:
        """Shuts the hold, then gives the replacement the old addresses. Before the freeze."""
        hold = _find(sandbox_id) or Hold.create(sandbox_id, Path(netns), [*new, *old])
        hold.arm()
        back = ways.find(ip_address(source_address))
        prepared = addresses.prepare(Path(netns), old, new, mtu=back.mtu)
        flip.ready([back])
        flip.expect(prepared, epoch)
        nat.loosen(old)
        return cls(hold, prepared, epoch, back)

    def staged(self, flows: bytes) -> None:
        """Takes over the source's NAT entries. In the freeze."""
        if flows:
            known = msgspec.json.decode(flows, type=list[Flow])
            anchors = {self.back.node: [self.back]} if self.back else {}
            for lost in nat.write(known, self.prepared, anchors, self.epoch):
                logger.warning("a flow is not kept: %s", lost.outgoing)
        # It runs only after the commit, but then what it says must not wait for anybody.
        self.hold.speak()

    def expose(self) -> None:
        """This node's own clients reach the pod here. In the freeze, at the commit."""
        addresses.expose(self.prepared)

    def release(self) -> None:
        """What was held goes to the pod, which runs."""
        self.hold.release()

    def held_packets(self) -> int:
        """How many have waited."""
        return _held_packets(self.hold)

    def settle(self) -> None:
        """The pod runs and nothing is held any more: its packets take no detour."""
        # What has begun since `prepare`.
        nat.loosen([ip_address(one) for one in self.prepared.old])
        self.hold.remove()

    def close(self) -> None:
        """Lets the hold's descriptors go."""
        self.hold.close()

    @classmethod
    def found(
        cls, sandbox_id: str, netns: str, old: Sequence[str], new: Sequence[str], epoch: int
    ) -> Arriving | None:
        """After a restart of the service; None if nothing was made, or it is gone."""
        hold = _find(sandbox_id)
        if hold is None:
            return None
        return cls(hold, addresses.prepare(Path(netns), _parsed(old), _parsed(new)), epoch)

    @staticmethod
    def remove(
        sandbox_id: str, netns: str, old: Sequence[str], new: Sequence[str], epoch: int
    ) -> None:
        """Undoes all of it; may be done again."""
        with contextlib.suppress(PodferryError, OSError):
            prepared = addresses.prepare(Path(netns), _parsed(old), _parsed(new))
            addresses.withdraw(prepared)
        with contextlib.suppress(PodferryError, OSError):
            nat.forget(_parsed(old))
            for one in _parsed(old):
                flip.clear(one, epoch)
        hold = _find(sandbox_id)
        if hold is not None:
            hold.remove()


@dataclass(slots=True)
class Leaving:
    """The network of a pod that goes.

    Attributes:
        netns: of its sandbox.
        addresses: the pod's.
        hold: made before the freeze.
        via: the way to the target.
        node: this node's address, as the others know it.
    """

    netns: Path
    addresses: tuple[Address, ...]
    hold: Hold
    via: Via
    node: Address

    @classmethod
    def prepare(
        cls, sandbox_id: str, netns: str, own: Sequence[str], target: str, node: str
    ) -> Leaving:
        """Makes the hold, open yet, and finds the way. Before the freeze."""
        parsed = tuple(_parsed(own))
        way = ways.find(ip_address(target))
        flip.ready([way])
        hold = _find(sandbox_id) or Hold.create(sandbox_id, Path(netns), parsed)
        hold.aim(way)
        return cls(Path(netns), parsed, hold, way, ip_address(node))

    @classmethod
    def found(cls, sandbox_id: str, own: Sequence[str], target: str, node: str) -> Leaving | None:
        """After a restart of the service; None if nothing was made, or it is gone."""
        hold = _find(sandbox_id)
        if hold is None:
            return None
        parsed = tuple(_parsed(own))
        return cls(Path(), parsed, hold, ways.find(ip_address(target)), ip_address(node))

    def quiesce(self) -> None:
        """Holds every packet for the pod from now on, and lets it read what a dump would lose.

        It answers meanwhile.
        """
        self.hold.arm(speaking=True)
        left = quiesce.drain(self.netns, DRAIN_S)
        if left:
            logger.warning("not drained before the freeze: %s", left.told())

    def flows(self) -> bytes:
        """Silences it; the NAT entries of its flows, which change no more. In the freeze."""
        self.hold.hush()
        return msgspec.json.encode(nat.read(self.addresses, self.node))

    def forward(self) -> None:
        """What is held goes to the target, and whatever comes later; at once after the commit."""
        self.hold.forward(self.via)

    def point(self, epoch: int) -> bool:
        """This node's own packets go there directly; true once all that was held has gone."""
        nat.loosen(self.addresses)
        done = self.hold.wait_forwarded(FORWARD_DEADLINE_S)
        for one in self.addresses:
            flip.point(one, [self.via], epoch)
            ipam.reserve(one)
        return bool(done)

    def held_packets(self) -> int:
        """How many have waited."""
        return _held_packets(self.hold)

    def close(self) -> None:
        """Lets the hold's descriptors go; it forwards until the sandbox is removed."""
        self.hold.close()

    def undo(self) -> None:
        """The pod runs on here: what was held goes to it."""
        self.hold.release()


def forget_sandbox(sandbox_id: str) -> None:
    """Takes away what a sandbox that is removed has left: its hold."""
    hold = _find(sandbox_id)
    if hold is not None:
        hold.remove()


def forget_address(address: str, epoch: int) -> None:
    """This node no longer knows of a moved pod's address; an older epoch is ignored."""
    flip.clear(ip_address(address), epoch)
    nat.forget([ip_address(address)])
    ipam.release(ip_address(address))


def _held_packets(hold: Hold) -> int:
    # A figure must not be what fails a move.
    with contextlib.suppress(PodferryError):
        return hold.counters.in_packets
    return 0


def _parsed(texts: Sequence[str]) -> list[Address]:
    return [ip_address(one) for one in texts]


def _find(sandbox_id: str) -> Hold | None:
    try:
        hold = Hold(sandbox_id[:64])
    except (NotFound, MissingFeature):
        return None
    if not hold.is_complete:
        hold.remove()
        return None
    return hold
