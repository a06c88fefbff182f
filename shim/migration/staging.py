# SPDX-License-Identifier: Apache-2.0
"""Owns one container's seat on the target: its store, its mounts' clone, its staged restore."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec

import shim
from shim._native_images import shorten
from shim.checkpoint import anatomy, mount_clone, request, stats
from shim.checkpoint.bed import RestoreFailed, explained, opened
from shim.checkpoint.stats import RestoreStats
from shim.core import launch
from shim.core.launch import Anatomy, Sleeper
from shim.errors import InvalidMessage, PodferryError, Refused
from shim.memory.store import PageStore
from shim.memory.stream import Receiver
from shim.runtime import monitor
from shim.runtime.monitor import Arming, CriuFailed, Monitor, Pager
from shim.runtime.monitor_wire import State

PAGER = Path(shim.__file__).parent / "bin" / "podferry-pager"
SETTLE_POLL_S = 0.1
ROOM_FACTOR = 2
SPARE_BYTES = 256 << 20
"""What a container may send above twice its memory: it grows, and its images come too."""


@dataclass(slots=True)
class Seat:
    """Where one container comes to.

    Attributes:
        name: in the pod.
        container_id: the runtime's id here.
        directory: of its store.
        clone: where the clone of its mounts is mounted.
        rootfs: its root file system as the node sees it.
        seen: the claimed container.
        store: the memory that has come.
        armed: what its restore was composed of.
        seal_ms: what making the store whole took.
    """

    name: str
    container_id: str
    directory: Path
    clone: Path
    rootfs: Path = Path("/nonexistent")
    seen: Anatomy | None = None
    store: PageStore | None = None
    token: bytes = b""
    armed: bytes = b""
    seal_ms: float = 0.0

    @classmethod
    def of(cls, name: str, container_id: str, stores: Path, clones: Path) -> Seat:
        """The places of a container, whether it is there or not."""
        return cls(name, container_id, stores / container_id, clones / container_id)

    @classmethod
    async def make(cls, name: str, container_id: str, stores: Path, clones: Path) -> Seat:
        """Reads a claimed container and clones its mounts.

        Raises:
            PodferryError: it is not there, or its mounts cannot be cloned.
        """
        seat = cls.of(name, container_id, stores, clones)
        seen = await asyncio.to_thread(anatomy.read, container_id)
        seat.rootfs, seat.seen = Path(seen.rootfs), seen
        async with Monitor(monitor.find(container_id)) as asked:
            holder = (await asked.state()).monitor_pid
        await asyncio.to_thread(mount_clone.remove, holder, seat.clone)
        await asyncio.to_thread(mount_clone.create, seen.init_pid, holder, seat.clone)
        return seat

    def expect(self, receiver: Receiver, token: bytes, source: str, resident_bytes: int) -> None:
        """Opens the store for the source's stream."""
        self.directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        shutil.rmtree(self.directory, ignore_errors=True)
        self.token = token
        self.store = receiver.expect(
            token,
            self.directory,
            quota_bytes=resident_bytes * ROOM_FACTOR + SPARE_BYTES,
            peer_name=source,
        )

    async def arm(self, came: bytes) -> None:
        """Composes the restore and starts CRIU, which waits for its request; nothing if it has.

        Args:
            came: what the source knows of the container, JSON; mounts and pipes are the image's,
                the rest is this node's.

        Raises:
            Refused: something that it has there is not here.
            InvalidMessage: it is no such message.
        """
        if self.store is None or self.seen is None:
            raise Refused("no memory was expected", where=f"container {self.name}")
        if came == self.armed:
            return
        try:
            sleeper = msgspec.json.decode(came, type=Sleeper)
        except msgspec.DecodeError as error:
            raise InvalidMessage(f"what is told of container {self.name}: {error}") from error
        images = str(self.store.images)
        what = launch.restore_elsewhere(sleeper, self.seen, images, str(self.clone), lazy=True)
        argv = (
            str(PAGER), "--store", str(self.directory), "--work-dir", images,
            "--journal", str(self.directory / "pager.journal"),
        )  # fmt: skip
        with opened(what.enter) as namespaces:
            async with Monitor(monitor.find(self.container_id)) as asked:
                await asked.arm(
                    Arming(
                        request=request.encode(what),
                        namespaces=namespaces,
                        pager=Pager(argv),
                        remove_images=True,
                    )
                )
                await asked.prepare()
        self.armed = came

    async def stage(self) -> None:
        """Restores it up to the point before it runs.

        Raises:
            RestoreFailed: told why and what to do; it can be staged again.
            NativeError: a page is missing, or the image is not whole.
        """
        if self.store is None or not self.armed:
            raise Refused("it is not armed", where=f"container {self.name}")
        began_s = time.monotonic()
        await asyncio.to_thread(_seal, self.store)
        self.seal_ms = (time.monotonic() - began_s) * 1e3
        async with Monitor(monitor.find(self.container_id)) as asked:
            try:
                await asked.stage()
            except CriuFailed as error:
                log = self.store.images / "restore.log"
                failed = explained(self.name, log, error)
                raise RestoreFailed(
                    failed.what, where=failed.where, remedy=failed.remedy
                ) from error

    def criu_figures(self) -> RestoreStats | None:
        """CRIU's own of the restore, once it has ended; None if it has written none."""
        with contextlib.suppress(PodferryError, OSError):
            return stats.read_restore(self.store.images) if self.store else None
        return None

    async def settle(self, receiver: Receiver) -> None:
        """Waits until all memory is in, then takes store and clone away."""
        while await pager_runs(self.container_id):
            await asyncio.sleep(SETTLE_POLL_S)
        await self.clean(receiver)

    async def clean(self, receiver: Receiver) -> None:
        """Takes the store and the clone away; may be done again."""
        if self.token:
            await asyncio.to_thread(receiver.forget, self.token)
        if self.store is not None:
            self.store.close()
        await asyncio.to_thread(shutil.rmtree, self.directory, ignore_errors=True)
        holder = await monitor_pid(self.container_id)
        with contextlib.suppress(PodferryError):
            await asyncio.to_thread(mount_clone.remove, holder, self.clone)


def _seal(store: PageStore) -> None:
    store.seal()
    shorten(store.images)  # CRIU has no use for what the pager brings


async def monitor_pid(container_id: str) -> int:
    """The pid of a container's monitor; our own if it has none."""
    with contextlib.suppress(PodferryError):
        async with Monitor(monitor.find(container_id)) as asked:
            return (await asked.state()).monitor_pid
    return os.getpid()


async def pager_runs(container_id: str) -> bool:
    """Whether a container's memory is still being filled in."""
    with contextlib.suppress(PodferryError):
        async with Monitor(monitor.find(container_id)) as asked:
            return bool((await asked.state()).pager_pid)
    return False


async def go(container_id: str) -> None:
    """Lets a staged container run; nothing if it does."""
    async with Monitor(monitor.find(container_id)) as asked:
        await asked.go()


async def require_staged(container_id: str) -> None:
    """Makes sure that a restored container still waits for its word: CRIU may have died since.

    Raises:
        Refused: it does not; what was restored is gone.
    """
    async with Monitor(monitor.find(container_id)) as asked:
        state = (await asked.state()).state
    if state is not State.STAGED:
        raise Refused(
            f"it is not staged any more but {state.name.lower()}",
            where=f"container {container_id}",
            remedy="the monitor's log on that node says what has ended it",
        )


async def give_up(container_id: str, *, cold: bool) -> None:
    """Ends a staged restore; the claimed container starts by itself if it is to be cold."""
    async with Monitor(monitor.find(container_id)) as asked:
        state = (await asked.state()).state
        if state is State.STAGED:
            await asked.drop()
            state = State.CLAIMED
        if cold and state is State.CLAIMED:
            await asked.unclaim()


async def require_claimed(container_id: str) -> None:
    """Makes sure that a container which the runtime has started waits for its processes.

    Raises:
        Refused: it runs by itself, or has no monitor.
    """
    state = None
    with contextlib.suppress(PodferryError):
        async with Monitor(monitor.find(container_id)) as asked:
            state = (await asked.state()).state
    if state is not State.CLAIMED:
        raise Refused(
            "it has started instead of waiting for its processes",
            where=f"container {container_id}",
            remedy="containerd there must run podferry-runtime: "
            "`podferry install --containerd-runtime --restart-containerd`",
        )
