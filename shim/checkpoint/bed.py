# SPDX-License-Identifier: Apache-2.0
"""Puts one container to sleep and wakes it, through its monitor; knows nothing of pods."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import shim
from shim.checkpoint import cores, images, mount_clone, request, stats, system_v
from shim.core import launch
from shim.core.launch import Anatomy, Purpose, Sleeper
from shim.core.sleep_record import Bed, Seen
from shim.errors import NotFound, PodferryError, Unavailable
from shim.runtime import monitor
from shim.runtime.monitor import Arming, CriuFailed, Monitor, Pager
from shim.runtime.monitor_wire import State

LOG_END_BYTES = 64 << 10
PAGER = Path(shim.__file__).parent / "bin" / "podferry-pager"
# From here on a wake does not wait for the memory: the pager brings it while the container runs.
# Below, reading it (1.3 GB/s) is faster than starting the pager and taking faults.
LAZY_FROM_BYTES = 12 << 20
_SEEN = {State.ASLEEP: Seen.ASLEEP, State.WAKING: Seen.ASLEEP, State.ENDING: Seen.GONE}


class DumpFailed(PodferryError):
    """CRIU could not put the container to sleep; it runs on."""


class RestoreFailed(PodferryError):
    """CRIU could not wake the container; it sleeps on."""


@dataclass(frozen=True, slots=True)
class Slept:
    """What a container's falling asleep took."""

    name: str
    frozen_ms: float
    took_ms: float
    image_bytes: int


@dataclass(frozen=True, slots=True)
class Release:
    """What wakes a container, and what its monitor does once it is awake; see Arming."""

    triggers: Sequence[int] = ()
    maps: Sequence[tuple[int, bytes, bytes | None]] = ()
    netlink: Sequence[tuple[int, bytes]] = ()
    prepare: bool = False


async def look(container_id: str) -> Seen:
    """What a container's monitor says of it."""
    try:
        async with Monitor(monitor.find(container_id)) as asked:
            state = (await asked.state()).state
    except (NotFound, Unavailable):
        return Seen.GONE
    return _SEEN.get(state, Seen.RUNNING)


async def prepare(bed: Bed, init_pid: int) -> None:
    """Makes what a sleep needs, while the container runs: its image's directory and the clone."""
    async with Monitor(monitor.find(bed.sleeper.container_id)) as asked:
        holder = (await asked.state()).monitor_pid
    await asyncio.to_thread(images.make, Path(bed.images))
    await asyncio.to_thread(mount_clone.remove, holder, Path(bed.clone))
    await asyncio.to_thread(mount_clone.create, init_pid, holder, Path(bed.clone))


async def lay_down(bed: Bed, seen: Anatomy, release: Release, freezer: str = "") -> Slept:
    """Dumps a container and arms its wake.

    Args:
        bed: where its image goes.
        seen: the container.
        release: what wakes it, and what is done then.
        freezer: its cgroup, if that is frozen already.

    Raises:
        DumpFailed: it runs on; told why and what to do.
        PodferryError: its monitor refuses; it runs on.
    """
    began = time.monotonic()
    down = launch.dump(seen, bed.images, Purpose.SLEEP, freezer=freezer)
    with opened(down.enter) as namespaces:
        async with Monitor(monitor.find(seen.container_id)) as asked:
            if not bed.sleeper.system_v:
                # It never sleeps without being wakeable, should this process end here.
                await asked.arm(_arming(bed, namespaces, Release()))
            try:
                await asked.checkpoint(
                    request.encode(down), images=bed.images, namespaces=namespaces
                )
            except CriuFailed as error:
                with contextlib.suppress(PodferryError):
                    await asked.disarm()
                log = Path(bed.images) / "dump.log"
                raise explained(bed.name, log, error) from error
    image_bytes = await finish(bed, release)
    figures = await asyncio.to_thread(stats.read_dump, Path(bed.images))
    took_ms = (time.monotonic() - began) * 1000
    return Slept(bed.name, figures.frozen_ms, took_ms, image_bytes)


async def finish(bed: Bed, release: Release) -> int:
    """What is done to an image once it is written, and the arming; may be done again."""
    image_bytes = await asyncio.to_thread(_complete, bed)
    joined = launch.restore(bed.sleeper, bed.images, bed.clone).enter
    with opened(joined) as namespaces:
        async with Monitor(monitor.find(bed.sleeper.container_id)) as asked:
            await asked.arm(_arming(bed, namespaces, release))
    return image_bytes


async def get_up(bed: Bed) -> float:
    """Wakes a container whose image is whole; returns the milliseconds. Nothing if it is awake.

    Raises:
        ImagesDamaged: it sleeps on.
        RestoreFailed: it sleeps on; told why and what to do.
    """
    began = time.monotonic()
    async with Monitor(monitor.find(bed.sleeper.container_id)) as asked:
        if (await asked.state()).state is State.ASLEEP:
            await asyncio.to_thread(images.verify, Path(bed.images))
        try:
            await asked.wake()
        except CriuFailed as error:
            directory = Path(bed.images)
            place = _restored_from(directory, lazy=_is_lazy(directory))
            told = explained(bed.name, place / "restore.log", error)
            raise RestoreFailed(told.what, where=told.where, remedy=told.remedy) from error
    return (time.monotonic() - began) * 1000


async def tidy(bed: Bed) -> None:
    """Takes away what a sleep has left of a container that is awake or gone."""
    holder, pager = os.getpid(), 0
    with contextlib.suppress(PodferryError):
        async with Monitor(monitor.find(bed.sleeper.container_id)) as asked:
            state = await asked.state()
            holder, pager = state.monitor_pid, state.pager_pid
    if not pager:  # else the monitor removes the image once all memory is in
        await asyncio.to_thread(images.remove, Path(bed.images))
    with contextlib.suppress(PodferryError):
        await asyncio.to_thread(mount_clone.remove, holder, Path(bed.clone))


def bed_of(name: str, seen: Anatomy, images_dir: Path, run_dir: Path) -> Bed:
    """Where a container sleeps."""
    return Bed(
        name=name,
        sleeper=Sleeper.of(seen),
        images=str(images_dir / seen.container_id),
        clone=str(run_dir / "mounts" / seen.container_id),
    )


def _complete(bed: Bed) -> int:
    directory = Path(bed.images)
    cores.make_calls_again(directory)
    if bed.sleeper.system_v:
        system_v.remove_all(bed.sleeper.joined["ipc"])
    if _is_lazy(directory):
        images.make_view(directory)
    return images.seal(directory)


def _is_lazy(directory: Path) -> bool:
    return PAGER.exists() and images.page_bytes(directory) >= LAZY_FROM_BYTES


def _restored_from(directory: Path, *, lazy: bool) -> Path:
    return directory / images.VIEW if lazy else directory


def _arming(bed: Bed, namespaces: tuple[int, ...], release: Release) -> Arming:
    directory = Path(bed.images)
    lazy = _is_lazy(directory)
    place = str(_restored_from(directory, lazy=lazy))
    what = launch.restore(bed.sleeper, place, bed.clone, lazy=lazy)
    journal = str(directory / "pager.journal")
    argv = (str(PAGER), "--images", bed.images, "--work-dir", place, "--journal", journal)
    return Arming(
        request=request.encode(what),
        namespaces=namespaces,
        pager=Pager(argv) if lazy else None,
        triggers=tuple(release.triggers),
        maps=tuple(release.maps),
        netlink=tuple(release.netlink),
        remove_images=True,
        prepare=release.prepare,
    )


def explained(name: str, log_path: Path, error: CriuFailed) -> DumpFailed:
    """CRIU's failure in plain words, from its log."""
    try:
        log = log_path.read_bytes()[-LOG_END_BYTES:].decode("utf-8", "replace")
    except OSError:
        log = ""
    # Here for its many patterns, so that a service starts fast; it loads it once it serves.
    from shim.core import criu_errors

    found = criu_errors.diagnose(log, str(error))
    told = f" (criu: {found.line})" if found.line else ""
    return DumpFailed(
        f"{found.cause.reason}{told}", where=f"container {name}", remedy=found.cause.remedy
    )


@contextlib.contextmanager
def opened(paths: Sequence[str]) -> Iterator[tuple[int, ...]]:
    opened: list[int] = []
    try:
        for path in paths:
            opened.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        yield tuple(opened)
    finally:
        for fd in opened:
            os.close(fd)
