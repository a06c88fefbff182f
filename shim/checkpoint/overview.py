# SPDX-License-Identifier: Apache-2.0
"""Tells the state of every pod of this node, from its bundles, processes and sleep."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shim.checkpoint import anatomy, pods, survey
from shim.checkpoint.pods import PodHere
from shim.checkpoint.sleeping import History, Sleeping
from shim.errors import PodferryError
from shim.runtime import monitor
from shim.runtime.monitor import Monitor
from shim.runtime.monitor_wire import State

# What a pod is called while one of its containers moves; the first that fits.
_MOVING = (State.STAGED, State.CLAIMED, State.HELD, State.DEPARTED)


@dataclass(frozen=True, slots=True)
class PodState:
    """One pod; the fields of PodState in control.proto."""

    pod: str
    uid: str
    sandbox_id: str
    state: str
    managed: bool
    memory_bytes: int
    image_bytes: int
    asleep_s: float
    sleeps: int
    wakes: int
    last_wake_ms: float
    last_wake_cause: str
    containers: list[str]


def vars_of(state: PodState) -> dict[str, Any]:
    """Its fields by name."""
    return dataclasses.asdict(state)


async def overview(sleeping: Sleeping) -> list[PodState]:
    """Every pod of this node."""
    return [
        await asyncio.to_thread(_state, pod, sleeping, await _moving(pod))
        for pod in await asyncio.to_thread(pods.listed)
    ]


async def _moving(pod: PodHere) -> str:
    """The step of a move that a pod is in, as its monitors say; "" for none."""
    seen = set()
    for container_id in pod.containers.values():
        with contextlib.suppress(PodferryError):
            async with Monitor(monitor.find(container_id)) as asked:
                seen.add((await asked.state()).state)
    return next((one.name.lower() for one in _MOVING if one in seen), "")


def _state(pod: PodHere, sleeping: Sleeping, moving: str) -> PodState:
    asleep = sleeping.asleep.get(pod.sandbox_id)
    history = sleeping.histories.get(pod.uid, History())
    memory, running = 0, 0
    for container_id in pod.containers.values() if asleep is None else ():
        try:
            seen = anatomy.read(container_id)
        except PodferryError:
            continue
        running += 1
        memory += sum(survey.resident(pid) for pid in seen.tasks)
    falling = sleeping.falling.get(pod.sandbox_id)
    beds = asleep.record.beds if asleep else falling.beds if falling else ()
    state = "asleep" if asleep else "falling asleep" if falling else ""
    return PodState(
        pod=pod.label,
        uid=pod.uid,
        sandbox_id=pod.sandbox_id,
        state=moving or state or ("running" if running else "stopped"),
        managed=any(monitor.find(one).is_dir() for one in pod.containers.values()),
        memory_bytes=memory,
        image_bytes=sum(_bytes_of(Path(one.images)) for one in beds),
        asleep_s=max(0.0, time.time() - asleep.record.since_s) if asleep else 0.0,
        sleeps=history.sleeps,
        wakes=history.wakes,
        last_wake_ms=history.last_wake_ms,
        last_wake_cause=history.last_wake_cause,
        containers=sorted(pod.containers),
    )


def _bytes_of(directory: Path) -> int:
    try:
        return sum(path.stat().st_blocks * 512 for path in directory.iterdir())
    except OSError:
        return 0
