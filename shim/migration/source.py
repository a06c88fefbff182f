# SPDX-License-Identifier: Apache-2.0
"""Owns the pods that leave this node: plans, the ones on the way, what a restart finds."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
import msgspec

from cri_proto import peer_pb2 as peer
from shim.checkpoint import anatomy, features, pods, survey
from shim.checkpoint.pods import PodHere
from shim.core import preflight
from shim.core.fitness import Capabilities, obstacles
from shim.core.launch import Anatomy
from shim.core.migration import SourceRemedy, SourceStep, carried, source_remedy
from shim.core.preflight import Blocks
from shim.errors import NotFound, PodferryError, Refused, Unavailable
from shim.migration import leaving, pod_files
from shim.migration.counting import MoveMetrics
from shim.migration.departure import Departure
from shim.migration.figures import Figures, Progress
from shim.migration.history import History
from shim.migration.journal import MoveJournal
from shim.migration.network import Leaving
from shim.migration.records import SourceRecord, TargetRecord
from shim.migration.trees import trees_of
from shim.network import in_use
from shim.peers import capabilities
from shim.peers.client import Peer, Peers
from shim.runtime import containerd
from shim.runtime.recipes import Recipes
from shim.settings import Move

logger = logging.getLogger(__name__)

HELLO_TIMEOUT_S = 10.0
HELLO_PATIENCE_S = 3.0
"""A service that has just started answers kubelet first, and other nodes a moment later."""
HELLO_RETRY_S = 0.2
DROP_RETRY_S = 1.0
DROP_RETRY_MOST_S = 60.0
MOVE_ID_BYTES = 6


@dataclass(slots=True)
class Plan:
    """A pod that may leave.

    Attributes:
        pod: the pod.
        target: the other node's name.
        anatomies: its running containers by name.
        offer: what the target will be told.
        expected_freeze_ms: by the preflight.
        notes: what its owner should know.
    """

    pod: PodHere
    target: str
    anatomies: dict[str, Anatomy]
    offer: peer.OfferRequest
    expected_freeze_ms: float
    notes: list[str]


class Source:
    """The departures of this node.

    Args:
        node: this node's name.
        address: this node's, as the others know it.
        settings: budget, rounds, deadlines.
        channel: to the runtime.
        recipes: what pods were made by.
        directory: of the journal, on a disk.
        images: directory of images, in a tmpfs.
        peers: the other nodes.
        here: what this node says of itself.
        is_back: whether a pod of a lineage has come here in a later epoch.
        arrived: the record of the move by which a sandbox's pod came here, None if it did not.
        metrics: where moves are counted.
    """

    def __init__(
        self,
        node: str,
        address: str,
        settings: Move,
        channel: grpc.aio.Channel,
        recipes: Recipes,
        directory: Path,
        images: Path,
        peers: Peers,
        here: Callable[[], Awaitable[Capabilities]],
        arrived: Callable[[str], TargetRecord | None],
        is_back: Callable[[str, int], bool],
        metrics: MoveMetrics,
    ) -> None:
        self._node = node
        self._address = address
        self._settings = settings
        self._channel = channel
        self._recipes = recipes
        self._journal = MoveJournal(directory, SourceRecord)
        self._images = images
        self._peers = peers
        self._here = here
        self._arrived = arrived
        self._is_back = is_back
        self._metrics = metrics
        self.departures: dict[str, Departure] = {}
        self.history = History(self._journal)
        self._telling: set[asyncio.Task[None]] = set()

    # ---- plan

    async def plan(self, said: str, target: str, *, by_kubelet: bool = False) -> Plan:
        """Judges a move; nothing is touched.

        Raises:
            NotFound: no such pod or node.
            Refused: it cannot move, or cannot move there; why, and what to do.
        """
        pod = await asyncio.to_thread(pods.find, said)
        other = self._peers.find(target)
        await features.find_out()
        told = await self._greeted(other)
        anatomies, resident, freeze_ms, notes = await self._examined(pod)
        for one in obstacles(await self._here(), capabilities.from_message(told), resident):
            raise Refused(
                f"node {target} cannot take it: {one.reason}",
                where=f"pod {pod.label}", remedy=one.remedy,
            )  # fmt: skip
        offer = await self._offer(pod, anatomies, resident, by_kubelet)
        return Plan(pod, target, anatomies, offer, freeze_ms, notes)

    async def _greeted(self, other: Peer) -> peer.HelloResponse:
        until_s = asyncio.get_running_loop().time() + HELLO_PATIENCE_S
        while True:
            try:
                async with other.asked() as stub:
                    request = peer.HelloRequest(node=self._node)
                    told: peer.HelloResponse = await stub.Hello(request, timeout=HELLO_TIMEOUT_S)
                    return told
            except Unavailable:
                if asyncio.get_running_loop().time() > until_s:
                    raise
            await asyncio.sleep(HELLO_RETRY_S)

    async def _examined(self, pod: PodHere) -> tuple[dict[str, Anatomy], int, float, list[str]]:
        seen: dict[str, Anatomy] = {}
        resident, freeze_ms, notes = 0, 0.0, []
        for name, container_id in pod.containers.items():
            try:
                one = await asyncio.to_thread(anatomy.read, container_id)
            except NotFound:
                continue  # it has finished
            verdict = preflight.judge(await asyncio.to_thread(survey.read, one))
            for finding in verdict.findings:
                if finding.blocks is Blocks.NOTHING:
                    notes.append(f"{name}: {finding.cause.reason} ({finding.where})")
                    continue
                raise Refused(
                    f"it cannot move: {finding.cause.reason}",
                    where=f"pod {pod.label}, container {name}, {finding.where}",
                    remedy=finding.cause.remedy,
                )
            if "net" not in one.joined:
                raise Refused(
                    "it cannot move: it uses another network than its sandbox's",
                    where=f"pod {pod.label}, container {name}",
                    remedy="have it stay in the network namespace that the pod has",
                )
            await leaving.require_monitor(pod, name, container_id)
            resident += verdict.resident_bytes
            freeze_ms += verdict.expected_freeze_ms
            seen[name] = one
        if not seen:
            raise Refused("none of its containers runs", where=f"pod {pod.label}")
        return seen, resident, freeze_ms, notes

    async def _offer(
        self, pod: PodHere, anatomies: dict[str, Anatomy], resident: int, by_kubelet: bool
    ) -> peer.OfferRequest:
        came = self._arrived(pod.sandbox_id)
        run = self._recipes.sandbox(pod.sandbox_id)
        containers, host_paths = [], []
        for name, container_id in pod.containers.items():
            made = self._recipes.container(pod.sandbox_id, container_id)
            containers.append(
                peer.Container(
                    name=name,
                    create_request=made.SerializeToString(),
                    image_ref=made.config.image.image,
                    finished=name not in anatomies,
                    sleeper=leaving.told(anatomies[name]) if name in anatomies else b"",
                )
            )
            host_paths += [mount.host_path for mount in made.config.mounts]
        files = [] if by_kubelet else await asyncio.to_thread(pod_files.read, host_paths)
        return peer.OfferRequest(
            move=secrets.token_hex(MOVE_ID_BYTES),
            lineage=came.lineage if came else secrets.token_hex(MOVE_ID_BYTES),
            epoch=came.epoch + 1 if came else 1,
            source=self._node,
            pod=pod.label,
            uid=pod.uid,
            run_request=run.SerializeToString(),
            containers=containers,
            addresses=await self._addresses(pod, anatomies),
            resident_bytes=resident,
            labels=dict(run.config.labels),
            by_kubelet=by_kubelet,
            claim_deadline_s=self._settings.claim_deadline_s,
            pod_files=msgspec.msgpack.encode(files),
        )

    async def _addresses(self, pod: PodHere, anatomies: dict[str, Anatomy]) -> list[str]:
        own = await containerd.addresses(self._channel, pod.sandbox_id)
        came = self._arrived(pod.sandbox_id)
        first = next(iter(anatomies.values()))
        used = await asyncio.to_thread(in_use.local_addresses, first.init_pid)
        return carried(own, came.addresses if came else (), used)

    def given_up_addresses(self, plan: Plan) -> list[str]:
        """The addresses that a pod has brought here and does not take along."""
        came = self._arrived(plan.pod.sandbox_id)
        brought = came.addresses if came else ()
        return [one for one in brought if one not in plan.offer.addresses]

    # ---- move

    async def move(self, plan: Plan, tell: Callable[[Progress], None]) -> Figures:
        """Moves a planned pod.

        Raises:
            Refused: it is on the way already, or was given up; it runs on here.
        """
        for one in self.departures.values():
            if one.record.sandbox_id == plan.pod.sandbox_id:
                raise Refused(
                    "it is on its way already", where=f"pod {plan.pod.label}",
                    remedy=f"see `podferry migrations`, move {one.record.move}",
                )  # fmt: skip
        other = self._peers.find(plan.target)
        record = SourceRecord(
            move=plan.offer.move,
            lineage=plan.offer.lineage,
            epoch=plan.offer.epoch,
            step=SourceStep.PLANNED,
            pod=plan.pod.label,
            uid=plan.pod.uid,
            sandbox_id=plan.pod.sandbox_id,
            target=plan.target,
            containers={name: one.container_id for name, one in plan.anatomies.items()},
            images={
                name: str(self._images / one.container_id) for name, one in plan.anatomies.items()
            },
            addresses=tuple(plan.offer.addresses),
            target_address=other.host,
        )
        log = await asyncio.to_thread(self._journal.begin, record.move, record)
        first = next(iter(plan.anatomies.values()))
        departure = Departure(
            settings=self._settings,
            other=other,
            log=log,
            record=record,
            offer=plan.offer,
            anatomies=plan.anatomies,
            netns=first.joined.get("net", ""),
            trees=await asyncio.to_thread(trees_of, plan.anatomies, plan.pod.uid),
            node_address=self._address,
            tell=tell,
        )
        self.departures[record.move] = departure
        try:
            return await departure.run()
        finally:
            await asyncio.shield(self._over(departure))

    async def _over(self, departure: Departure) -> None:
        record = departure.record
        departure.over.set()
        self._metrics.left(record.step, departure.figures)
        if record.step not in (SourceStep.SETTLED, SourceStep.ABANDONED):
            return  # by an error of this node's: it stays known, for the next start or a command
        self.departures.pop(record.move, None)
        departure.log.close()
        if departure.net:
            departure.net.close()
        await self.history.add(record, departure.figures)
        if record.step is SourceStep.ABANDONED:
            task = asyncio.create_task(self._tell_dropped(departure))
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)

    async def _tell_dropped(self, departure: Departure) -> None:
        """A target that was silent when the move was given up must not wait for ever."""
        pause_s = DROP_RETRY_S
        while not departure.dropped:
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, DROP_RETRY_MOST_S)
            await departure.tell_dropped()
        await self.history.forget_file(departure.record.move)

    async def close(self) -> None:
        """Stops telling; the next process goes on with it."""
        for one in list(self._telling):
            one.cancel()
        await asyncio.gather(*self._telling, return_exceptions=True)

    def abort(self, move: str) -> None:
        """Asks a move that has not frozen its pod yet to stop.

        Raises:
            NotFound: there is no such move.
            Refused: it is too late.
        """
        departure = self.departures.get(move)
        if departure is None:
            raise NotFound("no such move leaves this node", where=f"move {move}")
        if departure.record.step not in (SourceStep.PLANNED, SourceStep.COPYING):
            raise Refused(f"it is too late, it is {departure.record.step}", where=f"move {move}")
        departure.abort = "by command"

    def step_of(self, move: str) -> str:
        """What is written of a move; "" if it is not known."""
        if move in self.departures:
            return str(self.departures[move].record.step)
        log = self._journal.find(move)
        if log is None:
            return ""
        step = str(log.last.step) if log.last else ""
        log.close()
        return step

    def departed(self, uid: str) -> SourceRecord | None:
        """The record of the move by which a pod has left; None if it has not, or is back."""
        last = self.history.departed(uid)
        return None if last is None or self._is_back(last.lineage, last.epoch) else last

    def going(self, sandbox_id: str) -> asyncio.Future[object] | None:
        """Done once the move that a sandbox's pod is in is over; None if it is in none."""
        for one in self.departures.values():
            if one.record.sandbox_id == sandbox_id:
                return asyncio.ensure_future(one.over.wait())
        return None

    # ---- recovery

    async def recover(self) -> None:
        """Brings the journal and the containers into agreement; at the start of a service."""
        for move, log in await asyncio.to_thread(lambda: list(self._journal.logs())):
            record = log.last
            if record is None:
                continue
            if source_remedy(record.step, None) is SourceRemedy.NOTHING:
                log.close()
                await self.history.add(record, Figures())
                continue
            self.departures[move] = await self._found(log, record)
        # At once: one that is in doubt may wait for its target for hours.
        await asyncio.gather(*(self._recover(one) for one in list(self.departures.values())))

    async def _found(self, log: object, record: SourceRecord) -> Departure:
        anatomies = {}
        for name, container_id in record.containers.items():
            with contextlib.suppress(PodferryError):
                anatomies[name] = await asyncio.to_thread(anatomy.read, container_id)
        departure = Departure(
            settings=self._settings,
            other=self._peers.find(record.target),
            log=log,  # type: ignore[arg-type]
            record=record,
            offer=peer.OfferRequest(),
            anatomies=anatomies,
            netns="",
            trees=[],
            node_address=self._address,
            tell=lambda said: logger.info("move=%s %s %s", record.move, said.phase, said.text),
        )
        departure.figures.fresh = False
        departure.leavers = {
            name: leaving.Leaver(name, container_id, Path(record.images[name]), anatomies.get(name))
            for name, container_id in record.containers.items()
        }
        with contextlib.suppress(PodferryError):
            departure.net = await asyncio.to_thread(
                Leaving.found,
                record.sandbox_id, record.addresses, record.target_address, self._address,
            )  # fmt: skip
        return departure

    async def _recover(self, departure: Departure) -> None:
        record = departure.record
        logger.warning("found a move move=%s pod=%s step=%s", record.move, record.pod, record.step)
        try:
            if record.step in (SourceStep.GAVE_UP, SourceStep.DEPARTED):
                with contextlib.suppress(Refused):
                    await departure.finish()
            else:
                await departure.undo("the service was started anew in the middle of it")
        except (PodferryError, OSError) as error:
            logger.error("move is not recovered move=%s error=%s", record.move, error)
        finally:
            await self._over(departure)
