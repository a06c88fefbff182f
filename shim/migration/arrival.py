# SPDX-License-Identifier: Apache-2.0
"""Brings one pod to this node: replacement, stores, files, restore, resume; the target's side.

The order is that of docs/migration.md. Whatever can be done before the source freezes is done in
`prepare`; `stage` and `commit` are inside the freeze.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import ipaddress
import logging
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import msgspec

from cri_proto import peer_pb2 as peer
from shim.checkpoint import features
from shim.core.migration import TargetStep, target_may
from shim.core.volumes import Bring, empty_dir_path, origin
from shim.errors import InvalidMessage, PodferryError, Refused
from shim.failpoints import failpoint
from shim.memory.stream import Receiver, make_token
from shim.migration import network, pod_files, replacement, staging
from shim.migration.counting import MoveMetrics
from shim.migration.figures import Figures
from shim.migration.journal import MoveLog
from shim.migration.records import TargetRecord
from shim.migration.replacement import Replacement
from shim.migration.trees import apply_tree
from shim.runtime import claims, containerd
from shim.runtime.recipes import Recipes

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Places:
    """What arrivals of this node share.

    Attributes:
        channel: to the runtime.
        recipes: what pods were made by.
        stores: directory of incoming memory.
        clones: directory of mount clones, in a tmpfs.
        receiver: of the page streams.
        metrics: where moves are counted.
        pages_port: where that listens.
    """

    channel: grpc.aio.Channel
    recipes: Recipes
    stores: Path
    clones: Path
    receiver: Receiver
    metrics: MoveMetrics
    pages_port: int = 0


@dataclass(slots=True)
class Arrival:
    """One pod that comes.

    Attributes:
        places: what arrivals share.
        offer: what the source has said of it.
        log: the journal of this move.
        record: what is written down, or STAGED.
        source_address: of the other node.
        figures: what it took, until it is counted.
        heard_s: when the source last spoke of it, CLOCK_MONOTONIC.
        resumed: what the source is told once the tasks run.
    """

    places: Places
    offer: peer.OfferRequest
    log: MoveLog[TargetRecord]
    record: TargetRecord
    source_address: str
    replacement: Replacement | None = None
    seats: dict[str, staging.Seat] = field(default_factory=dict)
    net: network.Arriving | None = None
    heard_s: float = field(default_factory=time.monotonic)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    exposed: asyncio.Event = field(default_factory=asyncio.Event)
    settling: asyncio.Task[None] | None = None
    resuming: asyncio.Task[None] | None = None
    resumed: peer.CommitResponse = field(default_factory=peer.CommitResponse)
    figures: Figures = field(default_factory=Figures)

    def _write(self, step: TargetStep, reason: str = "") -> None:
        if not target_may(self.record.step, step):
            raise Refused(
                f"it is {self.record.step} here, so it cannot be {step}",
                where=f"move {self.record.move}",
            )
        failpoint(f"target before {step}")
        self.record = self.record.at(step, reason)
        if step is not TargetStep.STAGED:  # which costs no write inside the freeze
            self.log.write(self.record)
        failpoint(f"target after {step}")

    # ---- before the freeze

    async def make_files(self) -> None:
        """Makes what kubelet would, so that volumes can be filled before a container is created.

        Raises:
            InvalidMessage: a name leads elsewhere.
        """
        try:
            files = msgspec.msgpack.decode(self.offer.pod_files, type=list[pod_files.PodFile])
        except msgspec.DecodeError as error:
            raise InvalidMessage(f"the pod's files: {error}") from error
        await asyncio.to_thread(pod_files.write, self.offer.uid, files)

    async def prepare(self, made: Replacement | None = None) -> peer.PrepareResponse:
        """Makes the replacement, or takes the one that a kubelet has made, and all that it needs.

        Raises:
            PodferryError: a step failed; the caller drops the move.
        """
        async with self.lock:
            places = self.places
            await features.find_out()
            if made is None:
                await replacement.require_images(places.channel, self.offer.containers)
                made = await replacement.make(places.channel, places.recipes, self.offer)
            elif not made.addresses:
                made.addresses = tuple(await containerd.addresses(places.channel, made.sandbox_id))
            self.replacement = made
            for name, container_id in made.containers.items():
                self.seats[name] = await staging.Seat.make(
                    name, container_id, places.stores, places.clones
                )
            old = [ipaddress.ip_address(one) for one in self.offer.addresses]
            new = [ipaddress.ip_address(one) for one in made.addresses]
            first = next(iter(self.seats.values())).seen
            netns = first.joined.get("net", "") if first else ""
            self.record = _located(self.record, made, netns)
            self._write(TargetStep.PREPARED)
            if old:
                self.net = await asyncio.to_thread(
                    network.Arriving.prepare,
                    made.sandbox_id, netns, old, new, self.source_address, self.record.epoch,
                )  # fmt: skip
            told = {one.name: one.sleeper for one in self.offer.containers}
            prepared = []
            for name, seat in self.seats.items():
                token = make_token()
                seat.expect(places.receiver, token, self.offer.source, self.offer.resident_bytes)
                await seat.arm(told[name])
                prepared.append(
                    peer.PreparedContainer(
                        name=name, container_id=seat.container_id, page_token=token
                    )
                )
            self.figures.mark("prepared")
            return peer.PrepareResponse(
                uid=made.uid,
                sandbox_id=made.sandbox_id,
                address=made.addresses[0] if made.addresses else "",
                containers=prepared,
                pages_port=places.pages_port,
            )

    async def files(self, tree: str, frames: AsyncIterator[bytes]) -> peer.FilesResponse:
        """Takes one round of one tree.

        Raises:
            InvalidMessage: the frames are not as they should be.
        """
        root = self._root_of(tree)
        done = await apply_tree(root, frames)
        return peer.FilesResponse(entries=done.entries)

    def _root_of(self, tree: str) -> Path:
        kind, _, name = tree.partition("/")
        if self.replacement is None and kind == "volume" and not self.offer.by_kubelet:
            return Path(empty_dir_path(self.offer.uid, name))
        if self.replacement is None:
            raise Refused("there is no replacement yet", where=f"move {self.record.move}")
        if kind == "layer" and name in self.seats:
            return self.seats[name].rootfs
        if kind == "shm" and name in self.seats:
            return self.seats[name].clone / "dev/shm"
        if kind == "volume":
            for request in self.replacement.created.values():
                for mount in request.config.mounts:
                    of = origin(mount.host_path)
                    if of.bring is Bring.COPY and of.volume == name:
                        return Path(mount.host_path)
        raise Refused("the replacement has no such tree", where=tree)

    # ---- inside the freeze

    async def stage(
        self, epoch: int, sleepers: Mapping[str, bytes], flows: bytes
    ) -> peer.StageResponse:
        """Restores the tasks up to the point before they run.

        Args:
            epoch: of the move.
            sleepers: what is told of each container, as `Seat.arm` wants it.
            flows: NAT entries of the pod's flows.

        Raises:
            PodferryError: it cannot be restored; nothing of it has run, nothing will.
        """
        async with self.lock:
            self._require(epoch)
            self.figures.mark("staging")
            if set(sleepers) != set(self.seats):
                raise InvalidMessage(
                    f"containers {sorted(sleepers)} are told, {sorted(self.seats)} are claimed"
                )
            began = time.monotonic()
            results = await asyncio.gather(
                *(self._stage_one(seat, sleepers[name]) for name, seat in self.seats.items()),
                asyncio.to_thread(self.net.staged, flows) if self.net else _nothing(),
                return_exceptions=True,
            )
            for one in results:
                if isinstance(one, BaseException):
                    raise one
            self._write(TargetStep.STAGED)
            self.figures.mark("staged")
            return peer.StageResponse(
                seal_ms=max(one.seal_ms for one in self.seats.values()),
                restore_ms=(time.monotonic() - began) * 1e3,
            )

    @staticmethod
    async def _stage_one(seat: staging.Seat, came: bytes) -> None:
        await seat.arm(came)  # again, if something of it has changed since
        await seat.stage()

    async def commit(self, epoch: int, *, at_once: bool = False) -> peer.CommitResponse:
        """Lets it run here; may be asked again.

        Args:
            epoch: of the move.
            at_once: returns once it is written down; asked again, it waits until the tasks run.

        Raises:
            Refused: it was not staged, or was dropped.
        """
        async with self.lock:
            self._require(epoch)
            if self.record.step is not TargetStep.RESUMED:
                if self.record.step is not TargetStep.STAGED:
                    raise Refused(
                        f"it is {self.record.step} here", where=f"move {self.record.move}"
                    )
                self.figures.mark("committing")
                await self._require_all_staged()
                self._write(TargetStep.RESUMED)
                self.places.metrics.came(TargetStep.RESUMED)
            if not self.ended.is_set() and (self.resuming is None or self.resuming.done()):
                self.resuming = asyncio.create_task(self._resume_told())
            resuming = self.resuming
        if resuming is not None and at_once:
            # Packets are sent here as soon as the source hears: by then they must find the hold.
            exposed = asyncio.ensure_future(self.exposed.wait())
            await asyncio.wait({exposed, resuming}, return_when=asyncio.FIRST_COMPLETED)
            exposed.cancel()
        elif resuming is not None:
            await asyncio.shield(resuming)
        return self.resumed

    async def _resume_told(self) -> None:
        began = time.monotonic()
        try:
            await self.resume()
        except Exception as error:  # nobody may be waiting for it any more
            logger.error("it does not run yet move=%s pod=%s error=%s", self.record.move,
                         self.record.pod, error)  # fmt: skip
            raise
        self.resumed.resume_ms = (time.monotonic() - began) * 1e3

    async def _require_all_staged(self) -> None:
        # Once RESUMED is written the source ends its own. One that has lost its CRIU cannot go any
        # more, and none has gone yet: what is written on disk holds again, and the source drops it.
        try:
            await asyncio.gather(
                *(staging.require_staged(one) for one in self.record.containers.values())
            )
        except PodferryError:
            self.record = self.record.at(TargetStep.PREPARED)
            raise

    async def resume(self) -> None:
        """What follows the record RESUMED; may be done again."""
        containers = self.record.containers
        failpoint("target resumes")
        await asyncio.gather(
            *(staging.go(one) for one in containers.values()),
            self._expose(),
        )
        failpoint("target went")
        if self.net:
            await asyncio.to_thread(self.net.release)
        self.figures.mark("resumed")
        for seat in self.seats.values():
            told = await asyncio.to_thread(seat.criu_figures)
            if told is not None:
                self.resumed.criu_fork_ms += told.fork_ms
                self.resumed.criu_restore_ms += told.restore_ms
                self.resumed.criu_pages_restored += told.pages_restored
        self.ended.set()
        self.settling = asyncio.create_task(self._settle())

    async def _expose(self) -> None:
        if self.net:
            await asyncio.to_thread(self.net.expose)
        self.exposed.set()

    async def _settle(self) -> None:
        """Once all memory is in, nothing of the move is left but its record."""
        record = self.record
        for name, container_id in record.containers.items():
            seat = self.seats.get(name) or staging.Seat.of(
                name, container_id, self.places.stores, self.places.clones
            )
            await seat.settle(self.places.receiver)
        self.seats.clear()
        if self.net:
            self.figures.held_packets = await asyncio.to_thread(self.net.held_packets)
            await asyncio.to_thread(self.net.settle)
        self.figures.mark("settled")
        # A service that was started since resumes every pod that has ever come, which is no move.
        if "committing" in self.figures.marks:
            self._count()
        logger.info("settled move=%s pod=%s", record.move, record.pod)

    def _count(self) -> None:
        """Once: both a commit and a drop may be asked again."""
        figures, self.figures = self.figures, Figures()
        self.places.metrics.arrived(figures)

    async def resume_again(self) -> None:
        """The same, by a service that was started after the record."""
        record = self.record
        if record.addresses and self.net is None:
            self.net = await asyncio.to_thread(
                network.Arriving.found,
                record.sandbox_id, record.netns, record.addresses, record.own_addresses,
                record.epoch,
            )  # fmt: skip
        await self.resume()

    # ---- undo

    async def drop(self, reason: str) -> TargetStep:
        """Writes DROPPED unless it runs here, and takes everything away; returns what is written.

        A replacement that a kubelet has made is not ours to remove: it starts cold.
        """
        async with self.lock:
            if self.record.step is TargetStep.RESUMED:
                return TargetStep.RESUMED
            again = self.record.step is TargetStep.DROPPED
            self._write(TargetStep.DROPPED, reason)
            if not again:
                self.places.metrics.came(TargetStep.DROPPED)
                self._count()
            logger.warning("move dropped move=%s pod=%s reason=%s", self.record.move,
                           self.record.pod, reason)  # fmt: skip
            try:
                await asyncio.shield(self.clean())
            finally:
                self.ended.set()
            return TargetStep.DROPPED

    async def clean(self) -> None:
        """Takes away what a dropped move has left; may be done again."""
        record = self.record
        made = await self._made()
        containers = {
            container_id: name for one in made for name, container_id in one.containers.items()
        }
        for container_id, name in containers.items():
            with contextlib.suppress(PodferryError):
                await staging.give_up(container_id, cold=record.by_kubelet)
            claims.withdraw(container_id)
            seat = self.seats.get(name) or staging.Seat.of(
                name, container_id, self.places.stores, self.places.clones
            )
            await seat.clean(self.places.receiver)
        if self.net:
            self.net.close()
        if record.sandbox_id and record.addresses and record.own_addresses:
            await asyncio.to_thread(
                network.Arriving.remove,
                record.sandbox_id, record.netns, record.addresses, record.own_addresses,
                record.epoch,
            )  # fmt: skip
        if not record.by_kubelet:
            for one in made:
                await replacement.remove(self.places.channel, self.places.recipes, one)

    async def _made(self) -> list[Replacement]:
        """What was made for this move: as it is written, or as the runtime has it otherwise.

        A service that was killed while it made a replacement had not come to write it down.
        """
        record = self.record
        if record.sandbox_id:
            return [Replacement(record.uid, record.sandbox_id, containers=dict(record.containers))]
        if record.by_kubelet:
            return []
        return (await replacement.all_made(self.places.channel)).get(record.move, [])

    def _require(self, epoch: int) -> None:
        if epoch != self.record.epoch:
            raise Refused(
                f"this is epoch {self.record.epoch} of it, not {epoch}",
                where=f"move {self.record.move}",
            )


def _located(record: TargetRecord, made: Replacement, netns: str) -> TargetRecord:
    return dataclasses.replace(
        record,
        uid=made.uid,
        sandbox_id=made.sandbox_id,
        containers=dict(made.containers),
        own_addresses=tuple(made.addresses),
        netns=netns,
    )


async def _nothing() -> None:
    return None
