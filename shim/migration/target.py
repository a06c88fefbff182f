# SPDX-License-Identifier: Apache-2.0
"""Owns the pods that come to this node: who may come, who is on the way, what a restart finds."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from cri_proto import peer_pb2 as peer
from shim.core.migration import SourceStep, TargetRemedy, TargetStep, target_remedy
from shim.errors import InvalidMessage, NotFound, PodferryError, Refused
from shim.migration import replacement, staging
from shim.migration.arrival import Arrival, Places
from shim.migration.journal import MoveJournal
from shim.migration.records import TargetRecord
from shim.migration.replacement import Replacement
from shim.peers.client import Peers
from shim.runtime import claims, monitor
from shim.runtime.monitor import Monitor

logger = logging.getLogger(__name__)

PATIENCE_S = 600.0
"""How long a target that is prepared waits for a source that says nothing."""
WATCH_S = 30.0
ASK_TIMEOUT_S = 2.0
KEPT_S = 7 * 86400.0
"""How long DROPPED and RESUMED are remembered: longer than any source stays in doubt unattended."""


class Target:
    """The arrivals of this node.

    Args:
        node: this node's name.
        places: what arrivals share.
        directory: of the journal, on a disk.
        peers: the other nodes.
    """

    def __init__(self, node: str, places: Places, directory: Path, peers: Peers) -> None:
        self._node = node
        self._places = places
        self._journal = MoveJournal(directory, TargetRecord)
        self._peers = peers
        self.arrivals: dict[str, Arrival] = {}
        # Moves whose replacement a kubelet makes: done once it is there.
        self._claimed: dict[str, asyncio.Future[Replacement]] = {}

    # ---- the peer service

    async def offer(self, request: peer.OfferRequest, source: str) -> None:
        """Notes that a pod may come.

        Raises:
            Refused: another move of it is newer, or under way.
        """
        if request.source != source:
            raise Refused(
                f"the certificate is of {source!r}, the offer of {request.source!r}", where="peer"
            )
        if not request.containers:
            raise InvalidMessage("a pod without containers", where=f"pod {request.pod}")
        self._require_newest(request)
        record = TargetRecord(
            move=request.move,
            lineage=request.lineage,
            epoch=request.epoch,
            step=TargetStep.OFFERED,
            source=source,
            pod=request.pod,
            by_kubelet=request.by_kubelet,
            addresses=tuple(request.addresses),
        )
        log = await asyncio.to_thread(self._journal.begin, request.move, record)
        self.arrivals[request.move] = arrival = Arrival(
            self._places, request, log, record, self._peers.find(source).host
        )
        arrival.figures.mark("asked")
        if not request.by_kubelet:
            await arrival.make_files()
        logger.info("a pod is offered move=%s pod=%s source=%s", request.move, request.pod, source)

    def _require_newest(self, request: peer.OfferRequest) -> None:
        for one in self.arrivals.values():
            if one.record.lineage != request.lineage or one.record.step is TargetStep.DROPPED:
                continue  # a move that was given up is tried again in the same epoch
            if one.record.epoch >= request.epoch:
                raise Refused(
                    f"epoch {one.record.epoch} of it is known here, {request.epoch} is offered",
                    where=f"pod {request.pod}",
                    remedy="it has moved meanwhile: see `podferry migrations` on both nodes",
                )

    async def prepare(self, request: peer.PrepareRequest) -> peer.PrepareResponse:
        """Makes the replacement, or waits for a kubelet's."""
        arrival = self._find(request.move)
        try:
            made = None
            if arrival.offer.by_kubelet:
                made = await self._wait_for_claim(arrival)
            return await arrival.prepare(made)
        except BaseException as error:
            reason = str(error) or type(error).__name__
            await asyncio.shield(arrival.drop(reason))
            raise

    async def _wait_for_claim(self, arrival: Arrival) -> Replacement:
        future: asyncio.Future[Replacement] = asyncio.get_running_loop().create_future()
        self._claimed[arrival.record.move] = future
        try:
            async with asyncio.timeout(arrival.offer.claim_deadline_s or None):
                return await future
        except TimeoutError as error:
            raise Refused(
                f"no replacement was made in {arrival.offer.claim_deadline_s:.0f} s",
                where=f"pod {arrival.record.pod}",
                remedy="make it with the same labels, or annotate it podferry.dev/migration",
            ) from error
        finally:
            self._claimed.pop(arrival.record.move, None)

    def waiting_claims(self) -> dict[str, peer.OfferRequest]:
        """Offers that wait for a replacement of a kubelet's, by move."""
        return {move: self.arrivals[move].offer for move in self._claimed}

    def grant(self, move: str, made: Replacement) -> None:
        """A kubelet has made the replacement."""
        future = self._claimed.get(move)
        if future is not None and not future.done():
            future.set_result(made)

    async def files(self, move: str, tree: str, frames: AsyncIterator[bytes]) -> peer.FilesResponse:
        """One round of one tree."""
        return await self._find(move).files(tree, frames)

    async def stage(self, request: peer.StageRequest) -> peer.StageResponse:
        """Restores up to the point before the tasks run; a failure drops the move."""
        arrival = self._find(request.move)
        sleepers = {one.name: one.sleeper for one in request.containers}
        try:
            return await arrival.stage(request.epoch, sleepers, request.flows)
        except BaseException as error:
            reason = str(error) or type(error).__name__
            await asyncio.shield(arrival.drop(reason))
            raise

    async def commit(self, request: peer.CommitRequest) -> peer.CommitResponse:
        """Lets the pod run here."""
        return await self._find(request.move).commit(request.epoch, at_once=request.at_once)

    async def drop(self, request: peer.DropRequest) -> peer.DropResponse:
        """Writes DROPPED unless it runs here."""
        arrival = self.arrivals.get(request.move)
        if arrival is None:
            await asyncio.to_thread(self._bury, request.move, request.epoch, request.reason)
            return peer.DropResponse(step=TargetStep.DROPPED)
        return peer.DropResponse(step=await arrival.drop(request.reason))

    async def ask(self, request: peer.AskRequest) -> peer.AskResponse:
        """What is written here; a move that is not known is DROPPED from now on."""
        arrival = self.arrivals.get(request.move)
        if arrival is not None:
            return peer.AskResponse(step=arrival.record.step)
        await asyncio.to_thread(self._bury, request.move, request.epoch, "it was not known")
        return peer.AskResponse(step=TargetStep.DROPPED)

    def _bury(self, move: str, epoch: int, reason: str) -> None:
        if self._journal.find(move) is None:
            record = TargetRecord(
                move=move, lineage="", epoch=epoch, step=TargetStep.DROPPED, source="", pod="",
                reason=reason,
            )  # fmt: skip
            self._journal.begin(move, record).close()

    def _find(self, move: str) -> Arrival:
        try:
            arrival = self.arrivals[move]
        except KeyError:
            raise NotFound("no such move comes to this node", where=f"move {move}") from None
        arrival.heard_s = time.monotonic()
        return arrival

    async def watch(self) -> None:
        """Drops, for ever, what a source that has died or forgotten has left here half-way."""
        while True:
            await asyncio.sleep(WATCH_S)
            for one in list(self.arrivals.values()):
                quiet_s = time.monotonic() - one.heard_s
                if quiet_s > PATIENCE_S and not self.is_over(one.record.move):
                    with contextlib.suppress(PodferryError, OSError):
                        await self._judge(one)

    async def _judge(self, arrival: Arrival) -> None:
        theirs = await self.source_says(arrival.record)
        # One that is staged waits: its source may have written GAVE_UP before it fell silent.
        is_staged = arrival.record.step is TargetStep.STAGED
        if theirs is SourceStep.ABANDONED or (theirs is None and not is_staged):
            await arrival.drop(f"its source has been silent for {PATIENCE_S:.0f} s")

    # ---- recovery

    def arrived(self, sandbox_id: str) -> TargetRecord | None:
        """The record of the move by which a sandbox's pod came here, None if it did not."""
        for one in self.arrivals.values():
            if one.record.sandbox_id == sandbox_id and one.record.step is TargetStep.RESUMED:
                return one.record
        return None

    def forget(self, move: str) -> None:
        """A pod that came here is gone for good, and so is what is written of its move."""
        arrival = self.arrivals.pop(move, None)
        if arrival is not None:
            arrival.log.close()
            self._journal.remove(move)

    def is_back(self, lineage: str, epoch: int) -> bool:
        """Whether a pod of a lineage runs here by a later move than that of an epoch."""
        return any(
            one.record.lineage == lineage
            and one.record.epoch > epoch
            and one.record.step is TargetStep.RESUMED
            for one in self.arrivals.values()
        )

    def is_over(self, move: str) -> bool:
        """Whether a move to this node has ended, one way or the other."""
        arrival = self.arrivals.get(move)
        return arrival is None or arrival.record.step in (TargetStep.RESUMED, TargetStep.DROPPED)

    async def over(self, move: str) -> None:
        """Waits until a move to this node has ended."""
        while not self.is_over(move):
            await self.arrivals[move].ended.wait()

    async def finish_init(self, container_id: str) -> None:
        """Ends a claimed init container as it ended on the source: with 0, without running.

        Raises:
            PodferryError: it is not claimed.
        """
        async with Monitor(monitor.find(container_id)) as asked:
            await asked.exit(0)

    async def recover(self) -> None:
        """Brings the journal and the containers into agreement; at the start of a service."""
        dropped: list[Arrival] = []
        made: dict[str, list[Replacement]] | None
        for move, log in await asyncio.to_thread(lambda: list(self._journal.logs())):
            record = log.last
            if record is None:
                continue
            if time.time() - record.since_s > KEPT_S and record.step is TargetStep.DROPPED:
                log.close()
                await asyncio.to_thread(self._journal.remove, move)
                continue
            offer = peer.OfferRequest(
                move=move, lineage=record.lineage, epoch=record.epoch, pod=record.pod,
                source=record.source, addresses=record.addresses,
            )  # fmt: skip
            arrival = Arrival(self._places, offer, log, record, "")
            self.arrivals[move] = arrival
            if record.step is TargetStep.DROPPED:
                dropped.append(arrival)
                continue
            try:
                await self._recover(arrival)
            except (PodferryError, OSError) as error:
                logger.error("move is not recovered move=%s error=%s", move, error)
        try:  # behind the pods that are to run: the runtime may be slow to answer
            made = await replacement.all_made(self._places.channel)
        except PodferryError as error:
            logger.error("what was made for moves is not known error=%s", error)
            made = None
        for one in dropped:
            if one.record.sandbox_id or one.record.move in (made or {}):
                try:
                    await one.clean()
                except (PodferryError, OSError) as error:
                    logger.error("move is not recovered move=%s error=%s", one.record.move, error)
        if made is None:
            return
        try:
            await self._start_cold(made)
        except (PodferryError, OSError) as error:
            logger.error("claims of an earlier service stay error=%s", error)

    async def _start_cold(self, made: Mapping[str, list[Replacement]]) -> None:
        """Lets a kubelet's containers start that an earlier service has claimed for nothing.

        Every move has ended by now, so nobody comes into what is still claimed. What podferry has
        made itself never starts: that would be the pod a second time.
        """
        for container_id in await asyncio.to_thread(claims.announced):
            claims.withdraw(container_id)
        ours = {
            container_id
            for replacements in made.values()
            for one in replacements
            for container_id in one.containers.values()
        }
        for one in self.arrivals.values():
            if one.record.step is TargetStep.RESUMED:
                ours |= set(one.record.containers.values())
        for container_id in await asyncio.to_thread(monitor.all_monitored):
            if container_id not in ours:
                with contextlib.suppress(PodferryError):
                    await staging.give_up(container_id, cold=True)

    async def _recover(self, arrival: Arrival) -> None:
        record = arrival.record
        remedy = target_remedy(record.step, None)
        if remedy is TargetRemedy.RESUME:
            try:
                await arrival.resume_again()
            except NotFound:  # it has ended since
                await arrival.clean()
                self.forget(record.move)
        elif remedy is TargetRemedy.DROP:
            await arrival.drop("the service was started anew in the middle of it")

    async def source_says(self, record: TargetRecord) -> SourceStep | None:
        """What the source has written; None if it is silent."""
        with contextlib.suppress(PodferryError, ValueError):
            async with self._peers.find(record.source).asked() as stub:
                request = peer.AskRequest(move=record.move, epoch=record.epoch, as_source=True)
                answer = await stub.Ask(request, timeout=ASK_TIMEOUT_S)
            return SourceStep(answer.step) if answer.step else SourceStep.ABANDONED
        return None

    async def close(self) -> None:
        """Closes the journals; what is staged waits."""
        for one in self.arrivals.values():
            one.log.close()
