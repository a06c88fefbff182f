# SPDX-License-Identifier: Apache-2.0
"""Owns the sleep of pods: all containers together, packets held, each step written down.

Neither a sleeping pod nor its wake by a packet depends on this process: the monitors wake their
containers and let the packets go. What it adds is care: it tidies up after a wake, wakes the other
containers of a pod, and at its start brings every record and the containers into agreement.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from shim.checkpoint import anatomy, bed, features, freezer, images, own_tmpfs, pods
from shim.checkpoint.bed import RestoreFailed, Slept
from shim.checkpoint.gate import Gate
from shim.checkpoint.images import ImagesDamaged
from shim.checkpoint.journal import SleepJournal
from shim.checkpoint.locks import PodLocks
from shim.checkpoint.pods import PodHere
from shim.core.launch import Anatomy
from shim.core.sleep_record import Bed, Remedy, Seen, SleepRecord, Step, recover
from shim.errors import InvalidMessage, NotFound, PodferryError, Refused
from shim.runtime import monitor
from shim.runtime.monitor import Monitor
from shim.runtime.monitor_wire import Cause, State

if TYPE_CHECKING:
    from shim.core.preflight import Verdict

logger = logging.getLogger(__name__)

WAKE_TRIES = 3
"""How often a wake by a packet is begun again by the service after it has failed."""

Addresses = Callable[[str], Awaitable[list[str]]]
End = Callable[[str], Awaitable[None]]


@dataclass(slots=True)
class History:
    """What a pod has been through since this process began."""

    sleeps: int = 0
    wakes: int = 0
    last_wake_ms: float = 0.0
    last_wake_cause: str = ""


@dataclass(slots=True)
class Asleep:
    """A sleeping pod: its record, the gate that holds its packets, and who watches its monitors."""

    record: SleepRecord
    gate: Gate | None
    watchers: list[asyncio.Task[None]] = field(default_factory=list)


class Sleeping:
    """The sleeping pods of this node.

    Args:
        images_dir: where images are kept.
        run_dir: a tmpfs, for clones of mount trees.
        journal: the records.
        addresses: gives the addresses of a sandbox.
        end: has the runtime end a container whose image is lost, so that it starts anew.
        prepare: whether CRIU is started ahead of each wake.
    """

    def __init__(
        self,
        images_dir: Path,
        run_dir: Path,
        journal: SleepJournal,
        addresses: Addresses,
        end: End,
        *,
        prepare: bool = True,
    ) -> None:
        self._images_dir = images_dir
        self._run_dir = run_dir
        self._journal = journal
        self._addresses = addresses
        self._end = end
        self._prepare = prepare
        # Work begun by a packet; kept so that it is not collected.
        self._begun: set[asyncio.Task[None]] = set()
        self._locks = PodLocks(run_dir / "sleep.lock")
        # Whether `asleep` is all there is: not before the records were read, nor once a successor
        # has them.
        self._knows_all = False
        self._replaced = False
        self.asleep: dict[str, Asleep] = {}
        self.falling: dict[str, SleepRecord] = {}
        self.histories: dict[str, History] = {}

    # ---- sleep

    async def sleep(self, said: str) -> list[Slept]:
        """Puts a pod to sleep.

        Raises:
            NotFound: there is no such pod.
            Refused: it cannot sleep, or there is no room; the reason and what to do are told.
            PodferryError: a step failed; the pod runs on.
        """
        pod = await asyncio.to_thread(pods.find, said)
        async with self._locks.held(pod.sandbox_id):
            await self._refuse_asleep(pod)
            await features.find_out()
            seen = await self._examined(pod)
            record = SleepRecord(
                sandbox_id=pod.sandbox_id,
                pod=pod.label,
                uid=pod.uid,
                step=Step.FALLING,
                beds=tuple(
                    bed.bed_of(name, one, self._images_dir, self._run_dir)
                    for name, one in seen.items()
                ),
                addresses=tuple(await self._addresses(pod.sandbox_id)),
                since_s=time.time(),
            )
            await asyncio.to_thread(self._journal.write, record)
            self.falling[pod.sandbox_id] = record
            try:
                return await self._lay_down(record, seen)
            except BaseException:
                # Also if whoever asked went away: a pod sleeps wholly or not at all.
                await asyncio.shield(self._undo(record))
                raise
            finally:
                self.falling.pop(pod.sandbox_id, None)

    async def _refuse_asleep(self, pod: PodHere) -> None:
        if not self._knows_all:
            raise Refused(
                "the service is being started or replaced", where="sleep",
                remedy="ask again in a moment",
            )  # fmt: skip
        known = self.asleep.get(pod.sandbox_id)
        if known is None:
            return
        for one in known.record.beds:
            if await bed.look(one.sleeper.container_id) is Seen.ASLEEP:
                raise Refused("it is asleep already", where=f"pod {pod.label}")
        await self._woken(known, "runtime", 0.0)  # its end of sleep is only not tidied up yet

    async def _examined(self, pod: PodHere) -> dict[str, Anatomy]:
        """Reads and judges the running containers of a pod."""
        # What only falling asleep needs is imported here and below, so that a service starts fast;
        # it loads them once it serves.
        from shim.checkpoint import survey
        from shim.core import preflight

        seen: dict[str, Anatomy] = {}
        wanted = 0
        for name, container_id in pod.containers.items():
            try:
                one = await asyncio.to_thread(anatomy.read, container_id)
            except NotFound:
                continue  # it has finished
            verdict = preflight.judge(await asyncio.to_thread(survey.read, one))
            _refuse_blocked(pod, name, verdict)
            if await bed.look(container_id) is Seen.GONE:
                raise Refused(
                    "it has no container monitor",
                    where=f"pod {pod.label}, container {name}",
                    remedy="pods made before podferry-runtime was installed have none; remake it",
                )
            wanted += verdict.resident_bytes
            seen[name] = one
        if not seen:
            raise Refused("none of its containers runs", where=f"pod {pod.label}")
        if len(seen) > 1 and any(one.system_v for one in seen.values()):
            raise Refused(
                "its containers may share System V memory", where=f"pod {pod.label}",
                remedy="pods with System V memory can sleep if they have one container",
            )  # fmt: skip
        await asyncio.to_thread(self._require_room, wanted)
        return seen

    def _require_room(self, wanted_bytes: int) -> None:
        # Where an operator has chosen a place, it is his, as is its size.
        if self._images_dir.is_relative_to(self._run_dir):
            own_tmpfs.ensure(self._images_dir)
        images.require_room(self._images_dir, wanted_bytes)

    async def _lay_down(self, record: SleepRecord, seen: dict[str, Anatomy]) -> list[Slept]:
        from shim.checkpoint import datagrams

        for one in record.beds:
            await bed.prepare(one, seen[one.name].init_pid)
        gate = await asyncio.to_thread(Gate.open, record.sandbox_id, seen, record.addresses)
        state = Asleep(record, gate)
        alone = len(record.beds) == 1
        trusted = images.is_volatile(self._images_dir)
        if gate:
            await asyncio.to_thread(gate.shut)
            left = await datagrams.drain(next(iter(seen.values())).init_pid)
            if left:
                logger.warning("unread datagrams are lost pod=%s bytes=%d", record.pod, left)
            await asyncio.to_thread(Gate.shut_inside, record)
        with freezer.frozen([] if alone else list(seen.values())) as frozen:
            if gate:
                await asyncio.to_thread(gate.hush)
            slept = [
                await bed.lay_down(
                    one,
                    seen[one.name],
                    gate.release(alone, trusted, self._prepare)
                    if gate
                    else bed.Release(prepare=self._prepare),
                    frozen.get(seen[one.name].container_id, ""),
                )
                for one in record.beds
            ]
        state.record = dataclasses.replace(record, step=Step.ASLEEP)
        await asyncio.to_thread(self._journal.write, state.record)
        self._watch(state)
        history = self.histories.setdefault(record.uid, History())
        history.sleeps += 1
        logger.info("asleep pod=%s frozen_ms=%s", record.pod,
                    ",".join(f"{one.frozen_ms:.1f}" for one in slept))  # fmt: skip
        return slept

    async def _undo(self, record: SleepRecord) -> None:
        for one in record.beds:
            if await bed.look(one.sleeper.container_id) is Seen.ASLEEP:
                await bed.finish(one, bed.Release())
                await bed.get_up(one)
        await self._clean(record, None)

    # ---- wake

    async def wake(self, said: str, cause: str = "command") -> float:
        """Wakes a pod; returns the milliseconds, 0 if it was awake.

        Raises:
            NotFound: there is no such pod.
            PodferryError: it sleeps on; the reason is told.
        """
        pod = await asyncio.to_thread(pods.find, said)
        return await self.wake_sandbox(pod.sandbox_id, cause)

    def knows(self, sandbox_id: str) -> bool:
        """Whether a pod may be asleep."""
        return sandbox_id in self.asleep or (
            not self._knows_all and self._journal.find(sandbox_id) is not None
        )

    async def wake_sandbox(self, sandbox_id: str, cause: str) -> float:
        """The same, by the sandbox's id."""
        async with self._locks.held(sandbox_id):
            state = self.asleep.get(sandbox_id)
            if state is None and not self._knows_all:
                record = await asyncio.to_thread(self._journal.find, sandbox_id)
                state = Asleep(record, None) if record else None
            if state is None:
                return 0.0
            began = time.monotonic()
            for one in state.record.beds:
                if await bed.look(one.sleeper.container_id) is not Seen.GONE:
                    await self._get_up(one)
            took_ms = (time.monotonic() - began) * 1000
            await self._woken(state, cause, took_ms)
            return took_ms

    async def _get_up(self, one: Bed) -> None:
        try:
            await bed.get_up(one)
        except ImagesDamaged as error:
            logger.error("image is lost, container ends container=%s error=%s", one.name, error)
            await self._end(one.sleeper.container_id)
            raise

    async def _woken(self, state: Asleep, cause: str, took_ms: float) -> None:
        self.asleep.pop(state.record.sandbox_id, None)
        self._stop_listening(state)
        for task in state.watchers:
            if task is not asyncio.current_task():
                task.cancel()
        await self._clean(state.record, state.gate)
        history = self.histories.setdefault(state.record.uid, History())
        history.wakes += 1
        history.last_wake_ms, history.last_wake_cause = took_ms, cause
        logger.info("awake pod=%s cause=%s took_ms=%.1f", state.record.pod, cause, took_ms)

    async def _clean(self, record: SleepRecord, gate: Gate | None) -> None:
        """Takes away all that is left of a sleep; may be done again."""
        await asyncio.to_thread(Gate.open_inside, record)
        await asyncio.to_thread(Gate.remove, record.sandbox_id, gate)
        for one in record.beds:
            await bed.tidy(one)
        await asyncio.to_thread(self._journal.remove, record.sandbox_id)

    # ---- care

    def _watch(self, state: Asleep) -> None:
        if self._replaced:
            if state.gate:
                state.gate.close()
            return
        self.asleep[state.record.sandbox_id] = state
        if state.gate and not images.is_volatile(self._images_dir):
            asyncio.get_running_loop().add_reader(state.gate.event_fd, self._packet_came, state)
        for one in state.record.beds:
            task = asyncio.create_task(self._follow(state, one))
            state.watchers.append(task)

    def _packet_came(self, state: Asleep) -> None:
        self._stop_listening(state)
        task = asyncio.create_task(self._wake_for_packet(state.record))
        self._begun.add(task)
        task.add_done_callback(self._begun.discard)

    async def _wake_for_packet(self, record: SleepRecord) -> None:
        try:
            await self.wake_sandbox(record.sandbox_id, "packet")
        except PodferryError as error:
            logger.error("pod is not woken pod=%s error=%s", record.pod, error)

    def _stop_listening(self, state: Asleep) -> None:
        if state.gate:
            asyncio.get_running_loop().remove_reader(state.gate.event_fd)

    async def _follow(self, state: Asleep, one: Bed) -> None:
        """Waits until a container is woken by its monitor, or ends; then sees to its pod."""
        cause, took_ms = "ended", 0.0
        with contextlib.suppress(PodferryError, InvalidMessage):
            async with Monitor(monitor.find(one.sleeper.container_id)) as asked:
                cause, took_ms = await self._wait_woken(asked, state, one)
        async with self._locks.held(state.record.sandbox_id):
            if self.asleep.get(state.record.sandbox_id) is not state:
                return
            try:
                for other in state.record.beds:
                    if await bed.look(other.sleeper.container_id) is Seen.ASLEEP:
                        await bed.get_up(other)
                await self._woken(state, cause, took_ms)
            except PodferryError as error:
                logger.error("wake is not whole pod=%s error=%s", state.record.pod, error)

    async def _wait_woken(self, asked: Monitor, state: Asleep, one: Bed) -> tuple[str, float]:
        """What has woken a container, and the milliseconds it took."""
        if (await asked.subscribe()).state is State.RUNNING:
            return "packet" if state.gate else "runtime", 0.0  # before anybody could be told
        tries = 0
        async for event in asked.events():
            if event.after is State.RUNNING:
                took_ms = (event.release_ns - event.begun_ns) / 1e6
                return "packet" if event.cause is Cause.TRIGGER else "runtime", took_ms
            if event.after is State.ASLEEP and event.cause is Cause.TRIGGER and tries < WAKE_TRIES:
                # The packet that woke it waits, and raises no second event.
                tries += 1
                logger.warning("wake failed pod=%s error=%s", state.record.pod, event.text)
                with contextlib.suppress(RestoreFailed):
                    await self._get_up(one)
        return "ended", 0.0

    async def recover(self) -> None:
        """Brings the records and the containers into agreement; at the start of a service."""
        for record in await asyncio.to_thread(lambda: list(self._journal.records())):
            async with self._locks.held(record.sandbox_id):
                try:
                    await self._recover(record.sandbox_id)
                except (PodferryError, OSError) as error:
                    logger.error("sleep is not recovered pod=%s error=%s", record.pod, error)
        self._knows_all = not self._replaced

    async def _recover(self, sandbox_id: str) -> None:
        # Whoever held the lock has brought it further.
        record = await asyncio.to_thread(self._journal.find, sandbox_id)
        if record is None or sandbox_id in self.asleep:
            return
        seen = [await bed.look(one.sleeper.container_id) for one in record.beds]
        remedy = recover(record.step, seen)
        logger.info("found record pod=%s step=%s remedy=%s", record.pod, record.step, remedy)
        if remedy is Remedy.ADOPT:
            gate = await asyncio.to_thread(Gate.find, record.sandbox_id)
            self._watch(Asleep(record, gate))
        elif remedy is Remedy.WAKE:
            await self._undo(record)
        else:
            await self._clean(record, None)

    async def close(self) -> None:
        """Lets the sleepers be; they sleep on. What is under way is brought to its end."""
        self._replaced, self._knows_all = True, False
        tasks = [task for state in self.asleep.values() for task in state.watchers]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for state in self.asleep.values():
            if state.gate:
                self._stop_listening(state)
                state.gate.close()
        self.asleep.clear()


def _refuse_blocked(pod: PodHere, name: str, verdict: Verdict) -> None:
    from shim.core.preflight import Blocks

    blockers = [one for one in verdict.findings if one.blocks is Blocks.SLEEP]
    if blockers:
        more = f" (and {len(blockers) - 1} more)" if len(blockers) > 1 else ""
        raise Refused(
            f"it cannot sleep: {blockers[0].cause.reason}{more}",
            where=f"pod {pod.label}, container {name}, {blockers[0].where}",
            remedy=blockers[0].cause.remedy,
        )
