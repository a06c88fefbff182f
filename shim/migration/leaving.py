# SPDX-License-Identifier: Apache-2.0
"""Owns one container on its way out: its memory's rounds, its dump, its end or its return."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

import shim
from cri_proto import peer_pb2 as peer
from shim._native_images import add_left_out
from shim.checkpoint import cores, images, request
from shim.checkpoint.bed import explained, opened
from shim.checkpoint.pods import PodHere
from shim.core import launch
from shim.core.launch import Anatomy, Launch, Purpose, Sleeper
from shim.errors import NotFound, PodferryError, Refused, Unavailable
from shim.memory.stream import Sender, TlsFiles
from shim.migration.memory import Memory
from shim.migration.together import to_its_end
from shim.peers.client import Peer
from shim.runtime import monitor
from shim.runtime.monitor import CriuFailed, Monitor
from shim.runtime.monitor_wire import State

LANES = 2
LEFT_OUT_LIBRARY = Path(shim.__file__).parent / "bin" / "podferry-left-out.so"
LEFT_OUT = "left-out"
"""In a monitor's directory: which pages CRIU was kept from."""


@dataclass(slots=True)
class Leaver:
    """One container that leaves.

    Attributes:
        name: in the pod.
        container_id: the runtime's id.
        images: the directory that CRIU writes into.
        seen: the container as it was planned; None after a restart of the service.
        sender: of its pages.
        memory: its rounds.
        left_out_pages: that CRIU was kept from.
    """

    name: str
    container_id: str
    images: Path
    seen: Anatomy | None = None
    sender: Sender | None = None
    memory: Memory | None = None
    left_out_pages: int = 0
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    # ---- while it runs

    async def connect(self, other: Peer, port: int, token: bytes) -> None:
        """Opens the stream to its store, and begins to track what it writes.

        Raises:
            NativeError: it cannot be.
        """
        await asyncio.to_thread(images.make, self.images)
        files = other.files
        tls = TlsFiles(certificate=files.certificate, key=files.key, authority=files.ca)
        self.sender = await asyncio.to_thread(
            Sender.connect,
            other.host, port, tls, token, peer_name=other.node, lanes=LANES,
        )  # fmt: skip
        self.memory = Memory(self._seen.init_pid, self.sender)

    async def round(self) -> int:
        """Sends what was written since the last round; its bytes."""
        memory = self._memory
        return await to_its_end(asyncio.to_thread(memory.round), memory.sender.cancel)

    async def ready(self) -> None:
        """Starts CRIU, which waits for its request: 20 ms that the freeze does not have to wait.

        Raises:
            MonitorRefused: the container is in no state for it.
        """
        environment = await asyncio.to_thread(self._kept_from_criu)
        with opened(self._dump("").enter) as namespaces:
            async with Monitor(monitor.find(self.container_id)) as asked:
                await asked.prepare(namespaces=namespaces, environment=environment)

    def _kept_from_criu(self) -> dict[str, str]:
        """Has CRIU pass over memory that we send: it would take each page into a pipe first."""
        if not LEFT_OUT_LIBRARY.exists():
            return {}
        self._left_out.write_bytes(b"")
        self._left_out.chmod(0o600)
        return {"LD_PRELOAD": str(LEFT_OUT_LIBRARY), "PODFERRY_LEFT_OUT": str(self._left_out)}

    @property
    def _left_out(self) -> Path:
        return monitor.find(self.container_id) / LEFT_OUT

    def _dump(self, freezer: str) -> Launch:
        return launch.dump(self._seen, str(self.images), Purpose.MOVE, lazy=True, freezer=freezer)

    # ---- while it stands still

    async def dump(self, freezer: str) -> None:
        """Has CRIU dump it and stay; private memory is left to us.

        Raises:
            PodferryError: told why and what to do; it can run on.
        """
        await to_its_end(self._dump_and_hold(freezer))

    async def _dump_and_hold(self, freezer: str) -> None:
        down = self._dump(freezer)
        with opened(down.enter) as namespaces:
            async with Monitor(monitor.find(self.container_id)) as asked:
                try:
                    await asked.hold_checkpoint(
                        request.encode(down), images=str(self.images), namespaces=namespaces
                    )
                except CriuFailed as error:
                    raise explained(self.name, self.images / "dump.log", error) from error

    async def send_memory(self) -> int:
        """Sends the last pages, beside the dump: nothing changes any more. Their bytes."""
        memory = self._memory
        return await to_its_end(asyncio.to_thread(memory.final), memory.sender.cancel)

    async def send_image(self) -> int:
        """Sends what CRIU has written; its bytes."""
        return await to_its_end(asyncio.to_thread(self._send_image), self._memory.sender.cancel)

    def _send_image(self) -> int:
        cores.make_calls_again(self.images)
        if self._left_out.exists():
            self.left_out_pages = add_left_out(self.images, self._left_out, self._memory.pids)
        sender = self._memory.sender
        sent = sender.send_directory(self.images)
        sender.flush()
        return sent

    def staged(self) -> peer.StagedContainer:
        """What the target needs to know of it."""
        return peer.StagedContainer(name=self.name, sleeper=told(self._seen))

    # ---- afterwards

    async def resume(self) -> None:
        """It runs on here; nothing if it does."""
        async with Monitor(monitor.find(self.container_id)) as asked:
            state = (await asked.state()).state
            if state is State.HELD:
                await asked.resume()
            elif state is State.RUNNING:
                await asked.disarm()

    async def depart(self) -> None:
        """What stands still ends in silence; nothing if it has, or is gone altogether."""
        with contextlib.suppress(NotFound, Unavailable):
            async with Monitor(monitor.find(self.container_id)) as asked:
                if (await asked.state()).state is State.HELD:
                    await asked.depart()

    async def exit(self) -> None:
        """The runtime sees it exit with 0; nothing if it has."""
        with contextlib.suppress(PodferryError):
            async with Monitor(monitor.find(self.container_id)) as asked:
                if (await asked.state()).state is State.DEPARTED:
                    await asked.exit(0)

    async def clean(self) -> None:
        """Lets go of stream, tracker and images; may be done again."""
        async with self._lock:
            sender, self.sender = self.sender, None
            memory, self.memory = self.memory, None
            if memory is not None:
                await asyncio.to_thread(memory.close)
            if sender is not None:
                await asyncio.to_thread(sender.close)
            await asyncio.to_thread(images.remove, self.images)
            with contextlib.suppress(OSError):
                self._left_out.unlink()

    @property
    def _memory(self) -> Memory:
        if self.memory is None:
            raise Refused("its stream is not open", where=f"container {self.name}")
        return self.memory

    @property
    def _seen(self) -> Anatomy:
        if self.seen is None:
            raise Refused("it is not known any more", where=f"container {self.name}")
        return self.seen


def told(seen: Anatomy) -> bytes:
    """What the target is told of a container."""
    return msgspec.json.encode(Sleeper.of(seen))


async def require_monitor(pod: PodHere, name: str, container_id: str) -> None:
    """Makes sure that a container can be held.

    Raises:
        Refused: it has no monitor, or is in no state to leave.
    """
    where = f"pod {pod.label}, container {name}"
    try:
        async with Monitor(monitor.find(container_id)) as asked:
            state = (await asked.state()).state
    except PodferryError as error:
        raise Refused(
            "it has no container monitor", where=where,
            remedy="pods made before podferry-runtime was installed have none; remake it",
        ) from error  # fmt: skip
    if state is not State.RUNNING:
        raise Refused(
            f"it is {state.name.lower()}", where=where,
            remedy="wake it first by `podferry wake`, or wait for its move to end",
        )  # fmt: skip
