# SPDX-License-Identifier: Apache-2.0
"""Takes one pod from this node: copy, freeze, commit, flip; the source's side (docs/migration.md).

Until the record GAVE_UP every failure ends in the pod running on here. After it the target's answer
decides, and while there is none, nobody runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cri_proto import peer_pb2 as peer
from shim.checkpoint import freezer
from shim.core.launch import Anatomy
from shim.core.migration import (
    SHARES,
    Pace,
    SourceRemedy,
    SourceStep,
    TargetStep,
    pace,
    source_remedy,
)
from shim.errors import PodferryError, Refused, Unavailable
from shim.failpoints import failpoint
from shim.migration import throttle
from shim.migration.figures import Figures, Progress, Round
from shim.migration.journal import MoveLog
from shim.migration.leaving import Leaver
from shim.migration.network import Leaving
from shim.migration.records import SourceRecord
from shim.migration.together import to_its_end, together
from shim.migration.trees import SourceTree, send_trees
from shim.peers.client import Peer
from shim.settings import Move

logger = logging.getLogger(__name__)

COMMIT_TIMEOUT_S = 5.0
STAGE_TIMEOUT_S = 60.0
DROP_TIMEOUT_S = 20.0
PREPARE_TIMEOUT_S = 900.0
ASK_TIMEOUT_S = 2.0
RETRY_S = 0.5
ROUND_PAUSE_S = 0.02
ROUNDS_SLOWED = 2
"""After each slowing; they show what it has gained."""


@dataclass(slots=True)
class Departure:
    """One pod that goes.

    Attributes:
        settings: budget and rounds.
        other: the target.
        log: the journal of this move.
        record: what is written down.
        offer: what the target is told of the pod.
        anatomies: its running containers by name.
        netns: of its sandbox.
        trees: of its files.
        node_address: this node's, as the others know it.
        tell: called with each piece of progress.
    """

    settings: Move
    other: Peer
    log: MoveLog[SourceRecord]
    record: SourceRecord
    offer: peer.OfferRequest
    anatomies: dict[str, Anatomy]
    netns: str
    trees: list[SourceTree]
    node_address: str
    tell: Callable[[Progress], None]
    figures: Figures = field(default_factory=Figures)
    leavers: dict[str, Leaver] = field(default_factory=dict)
    net: Leaving | None = None
    abort: str = ""
    dropped: bool = False
    over: asyncio.Event = field(default_factory=asyncio.Event)
    _began_s: float = field(default_factory=time.monotonic)

    def _write(self, step: SourceStep, reason: str = "") -> None:
        failpoint(f"source before {step}")
        self.record = self.record.at(step, reason)
        self.log.write(self.record)
        failpoint(f"source after {step}")

    def _say(self, phase: str, text: str = "") -> None:
        self.tell(Progress(phase, text, time.monotonic() - self._began_s))

    async def run(self) -> Figures:
        """The whole move.

        Raises:
            PodferryError: why it was given up; the pod runs on here, unless the error says that it
                is in doubt.
        """
        try:
            await self._copy_ahead()
            await self._freeze_and_stage()
        except BaseException as error:
            await asyncio.shield(self.undo(_words(error)))
            raise
        await asyncio.shield(self.finish())
        return self.figures

    # ---- while the pod runs

    async def _copy_ahead(self) -> None:
        self._say("plan", f"node {self.other.node} is asked")
        self.figures.mark("asked")
        async with self.other.asked() as stub:
            await stub.Offer(self.offer, timeout=PREPARE_TIMEOUT_S)
            self._write(SourceStep.COPYING)
            if not self.offer.by_kubelet:
                # A program may lie in a volume: the runtime looks for it when it creates.
                volumes = [one for one in self.trees if one.name.startswith("volume/")]
                self.figures.files_bytes += await send_trees(self.other, self.record.move, volumes)
            self._say("prepare", "the replacement is made")
            prepared = await stub.Prepare(
                peer.PrepareRequest(move=self.record.move), timeout=PREPARE_TIMEOUT_S
            )
        places = {one.name: one for one in prepared.containers}
        if set(places) != set(self.anatomies):
            raise Refused(
                f"the replacement has containers {sorted(places)}, wanted {sorted(self.anatomies)}",
                where=f"node {self.other.node}",
                remedy="make it from the same pod template",
            )
        for name, seen in self.anatomies.items():
            leaver = Leaver(name, seen.container_id, Path(self.record.images[name]), seen)
            self.leavers[name] = leaver
            await leaver.connect(self.other, prepared.pages_port, places[name].page_token)
        if self.record.addresses:
            self.net = await asyncio.to_thread(
                Leaving.prepare,
                self.record.sandbox_id, self.netns, self.record.addresses, self.other.host,
                self.node_address,
            )  # fmt: skip
        self.figures.mark("prepared")
        await self._rounds()

    async def _rounds(self) -> None:
        left: list[int] = []
        shares = list(SHARES)
        while True:
            self._check_abort()
            number = len(self.figures.rounds) + 1
            memory, _ = await together(self._memory_round(), self._files_round())
            self.figures.rounds.append(memory)
            # What this round had to send is about what the next one will.
            left.append(memory.sent_bytes)
            self._say(
                "copy",
                f"round {number}: {memory.sent_bytes / 1048576:.1f} MiB in {memory.took_s:.2f} s",
            )
            rounds = ROUNDS_SLOWED if self.figures.throttled else self.settings.rounds
            verdict = pace(left, memory.rate_bytes_per_s, self.settings.freeze_budget_s, rounds)
            if verdict is Pace.FREEZE or (verdict is Pace.THROTTLE and not shares):
                return
            if verdict is Pace.THROTTLE:
                await self._slow(shares.pop(0))
                left.clear()
            await asyncio.sleep(ROUND_PAUSE_S)

    async def _slow(self, share: float) -> None:
        self.figures.throttled = True
        containers = list(self.anatomies.values())
        if not self.record.quotas:
            had = await asyncio.to_thread(throttle.quotas, containers)
            self.record = dataclasses.replace(self.record, quotas=had)
            await asyncio.to_thread(self.log.write, self.record)
        self._say("copy", f"it writes faster than the link takes it: slowed to {share:.0%}")
        await asyncio.to_thread(throttle.slow, containers, self.record.quotas, share)

    async def _memory_round(self) -> Round:
        began = time.monotonic()
        sent = sum(await together(*(one.round() for one in self.leavers.values())))
        return Round(sent, time.monotonic() - began)

    async def _files_round(self) -> None:
        sent = await send_trees(self.other, self.record.move, self.trees)
        self.figures.files_bytes += sent

    def _check_abort(self) -> None:
        if self.abort:
            raise Refused(f"it was given up: {self.abort}", where=f"move {self.record.move}")

    # ---- while it stands still

    async def _freeze_and_stage(self) -> None:
        leavers = list(self.leavers.values())
        await together(*(one.ready() for one in leavers))
        self._check_abort()
        self._say("freeze")
        # Before any packet is held: a service that finds this record releases and thaws.
        await asyncio.to_thread(self._write, SourceStep.FREEZING)
        try:
            async with asyncio.timeout(self.settings.freeze_deadline_s):
                await self._stage(leavers)
        except TimeoutError as error:
            raise Refused(
                f"it was not restored there within {self.settings.freeze_deadline_s:g} s",
                where=f"pod {self.record.pod}, node {self.other.node}",
                remedy="look at the link between the nodes; [move] freeze_deadline_s allows more",
            ) from error

    async def _stage(self, leavers: list[Leaver]) -> None:
        figures = self.figures
        figures.mark("held")
        if self.net:
            await asyncio.to_thread(self.net.quiesce)
        figures.mark("frozen")
        groups = await asyncio.to_thread(freezer.freeze, list(self.anatomies.values()))
        flows = asyncio.create_task(asyncio.to_thread(self.net.flows) if self.net else _no_flows())
        if self.record.quotas:  # CRIU works inside the tasks, at their pace
            await asyncio.to_thread(
                throttle.restore, list(self.anatomies.values()), self.record.quotas
            )
        last, *_ = await together(
            together(*(one.send_memory() for one in leavers)),
            *(one.dump(groups[one.container_id]) for one in leavers),
            *(to_its_end(asyncio.to_thread(one.freeze)) for one in self.trees),
        )
        figures.mark("dumped")
        failpoint("source dumped")
        files, *sent = await together(
            send_trees(self.other, self.record.move, self.trees),
            *(one.send_image() for one in leavers),
        )
        figures.last_bytes, figures.last_files_bytes = sum(last) + sum(sent), files
        figures.left_out_pages = sum(one.left_out_pages for one in leavers)
        figures.mark("sent")
        failpoint("source sent")
        request = peer.StageRequest(
            move=self.record.move,
            epoch=self.record.epoch,
            containers=[one.staged() for one in leavers],
            flows=await flows,
        )
        async with self.other.asked() as stub:
            answer = await stub.Stage(request, timeout=STAGE_TIMEOUT_S)
        figures.seal_ms, figures.restore_ms = answer.seal_ms, answer.restore_ms
        figures.mark("staged")
        failpoint("source staged")

    # ---- the commit, and what follows it

    async def finish(self) -> None:
        """From GAVE_UP on: may be begun again by a later process.

        Raises:
            Refused: the target has given it back; it runs on here.
        """
        if self.record.step is SourceStep.FREEZING:
            await asyncio.to_thread(self._write, SourceStep.GAVE_UP)
            self.figures.mark("gave_up")
        while self.record.step is SourceStep.GAVE_UP:
            await self._ask_once()
        if self.record.step is SourceStep.ABANDONED:
            raise Refused(
                f"the target gave it back: {self.record.reason}", where=f"pod {self.record.pod}"
            )
        await self._leave()
        await self._settle()

    async def _ask_once(self) -> None:
        """One question to the target, and what its answer means."""
        move, epoch = self.record.move, self.record.epoch
        theirs: TargetStep | None = TargetStep.STAGED if self.figures.fresh else None
        self.figures.fresh = False
        if theirs is None:
            with contextlib.suppress(Unavailable):
                async with self.other.asked() as stub:
                    request = peer.AskRequest(move=move, epoch=epoch)
                    answer = await stub.Ask(request, timeout=ASK_TIMEOUT_S)
                theirs = TargetStep(answer.step)
        remedy = source_remedy(self.record.step, theirs)
        if remedy is SourceRemedy.COMMIT:
            await self._commit()
        elif remedy is SourceRemedy.DROP:
            with contextlib.suppress(PodferryError):
                async with self.other.asked() as stub:
                    drop = peer.DropRequest(move=move, epoch=epoch, reason="not staged any more")
                    await stub.Drop(drop, timeout=DROP_TIMEOUT_S)
        elif remedy is SourceRemedy.THAW:
            await self.undo("the target has dropped it")
        elif remedy is SourceRemedy.DEPART:
            await asyncio.to_thread(self._write, SourceStep.DEPARTED)
        else:
            self._say("in doubt", f"node {self.other.node} is silent; nobody runs until it answers")
            await asyncio.sleep(RETRY_S)

    async def _commit(self) -> None:
        move, epoch = self.record.move, self.record.epoch
        try:
            async with self.other.asked() as stub:
                request = peer.CommitRequest(move=move, epoch=epoch, at_once=True)
                await stub.Commit(request, timeout=COMMIT_TIMEOUT_S)
        except PodferryError as error:
            logger.warning("commit is not answered move=%s error=%s", self.record.move, error)
            await asyncio.sleep(RETRY_S / 10)
            return
        self.figures.mark("committed")
        failpoint("source committed")
        # Packets first, they are on their way while the tasks are let go there, and wait in the
        # target's hold; the record only spares a later process the question.
        if self.net:
            await asyncio.to_thread(self.net.forward)
        self.figures.mark("flipped")
        with contextlib.suppress(PodferryError):  # it is decided, whatever comes
            async with self.other.asked() as stub:
                request = peer.CommitRequest(move=move, epoch=epoch)
                answer = await stub.Commit(request, timeout=COMMIT_TIMEOUT_S)
            self.figures.resume_ms = answer.resume_ms
            self.figures.criu.update(
                fork_ms=answer.criu_fork_ms,
                restore_ms=answer.criu_restore_ms,
                pages_restored=answer.criu_pages_restored,
            )
        self.figures.mark("resumed")
        self._say("commit", f"it runs on {self.other.node}")
        await asyncio.to_thread(self._write, SourceStep.DEPARTED)

    async def _leave(self) -> None:
        """Ends what stands still here; packets go over, also after a restart."""
        self.figures.mark("departed")
        for one in self.leavers.values():
            await one.depart()
        failpoint("source ended the originals")
        if self.net:
            await asyncio.to_thread(self.net.forward)
            self.figures.all_forwarded = await asyncio.to_thread(self.net.point, self.record.epoch)
            self.figures.held_packets = await asyncio.to_thread(self.net.held_packets)

    async def _settle(self) -> None:
        for one in self.leavers.values():
            await one.exit()
            await one.clean()
        await asyncio.to_thread(self._write, SourceStep.SETTLED)
        self.figures.mark("settled")
        self._say("settled", self.figures.summary())

    async def decide(self, *, here: bool) -> None:
        """Somebody who knows that the target is gone for good says where the pod runs.

        Raises:
            Refused: the target answers; its word decides.
        """
        try:
            async with self.other.asked() as stub:
                request = peer.AskRequest(move=self.record.move, epoch=self.record.epoch)
                await stub.Ask(request, timeout=ASK_TIMEOUT_S)
        except Unavailable:
            if here:
                await self.undo("by command, while the target was silent")
            else:
                await asyncio.to_thread(self._write, SourceStep.DEPARTED)
            return
        raise Refused(
            "the target answers, so its word decides", where=f"move {self.record.move}",
            remedy="wait a moment and look at `podferry migrations`",
        )  # fmt: skip

    # ---- undo

    async def undo(self, reason: str) -> None:
        """The pod runs on here; the target is told. May be done again."""
        if self.record.step is not SourceStep.ABANDONED:
            # Written first: it never runs here beside a target that may still be told to resume it.
            await asyncio.to_thread(self._write, SourceStep.ABANDONED, reason)
        if not self.record.undone:
            await self._undo_here()
            # From here on another move of the pod may begin, which must be left alone.
            self.record = dataclasses.replace(self.record, undone=True)
            await asyncio.to_thread(self.log.write, self.record)
            self.figures.mark("undone")
        self._say("given up", self.record.reason)
        await self.tell_dropped()

    async def _undo_here(self) -> None:
        for one in self.leavers.values():
            with contextlib.suppress(PodferryError):
                await one.resume()
        containers = list(self.anatomies.values())
        await asyncio.to_thread(throttle.restore, containers, self.record.quotas)
        await asyncio.to_thread(freezer.thaw, containers)
        if self.net:
            with contextlib.suppress(PodferryError):
                await asyncio.to_thread(self.net.undo)
                if "held" in self.figures.marks:  # otherwise it counts those of an earlier sleep
                    self.figures.held_packets = await asyncio.to_thread(self.net.held_packets)
        for one in self.leavers.values():
            with contextlib.suppress(PodferryError):
                await one.clean()

    async def tell_dropped(self) -> None:
        """Has the target write DROPPED; `dropped` says whether it has."""
        with contextlib.suppress(PodferryError):
            async with self.other.asked() as stub:
                request = peer.DropRequest(
                    move=self.record.move, epoch=self.record.epoch, reason=self.record.reason
                )
                await stub.Drop(request, timeout=DROP_TIMEOUT_S)
            self.dropped = True


async def _no_flows() -> bytes:
    return b""


def _words(error: BaseException) -> str:
    if isinstance(error, asyncio.CancelledError):
        return "who asked for it went away"
    return str(error) or type(error).__name__
