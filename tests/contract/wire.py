# SPDX-License-Identifier: Apache-2.0
"""A splice between two ends of a unix socket: cuts, refuses, plays deaf, and counts HTTP/2 frames.

Frame layout: RFC 9113, section 4.1.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

PREFACE_BYTES = 24
FRAME_HEADER_BYTES = 9
PING, GOAWAY = 6, 7
ACK = 1


class Frames:
    """Finds the frames in one direction of a connection."""

    def __init__(self, skip_bytes: int, on_frame: Callable[[int, int], None]) -> None:
        self._skip_bytes = skip_bytes
        self._head = bytearray()
        self._on_frame = on_frame

    def feed(self, data: bytes) -> None:
        """Takes the next bytes of the direction."""
        while data:
            if self._skip_bytes:
                skipped = min(self._skip_bytes, len(data))
                self._skip_bytes -= skipped
                data = data[skipped:]
                continue
            missing = FRAME_HEADER_BYTES - len(self._head)
            self._head += data[:missing]
            data = data[missing:]
            if len(self._head) == FRAME_HEADER_BYTES:
                self._skip_bytes = int.from_bytes(self._head[:3], "big")
                kind, flags = self._head[3], self._head[4]
                self._head.clear()
                self._on_frame(kind, flags)


class Splice:
    """Passes every connection on one path to another path.

    Args:
        path: where it listens.
        target: where it connects to.

    Attributes:
        to_server: frames by type, of all connections; answers to pings are left out.
        to_client: the same in the other direction.
        connections: how many were accepted.
    """

    def __init__(self, path: Path, target: Path) -> None:
        self.path = path
        self.target = target
        self.deaf = False
        self.refuses = False
        self.connections = 0
        self.to_server: Counter[int] = Counter()
        self.to_client: Counter[int] = Counter()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listens."""
        self._server = await asyncio.start_unix_server(self._accept, str(self.path))

    async def stop(self) -> None:
        """Cuts everything and removes the path."""
        if self._server:
            self._server.close()
            self.cut()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        self.path.unlink(missing_ok=True)

    def cut(self) -> None:
        """Breaks all connections, as when the other process dies."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        try:
            if self.refuses:
                return
            if self.deaf:
                while await reader.read(65536):
                    pass
                return
            await self._join(reader, writer)
        except OSError:
            pass
        except asyncio.CancelledError:
            pass  # by `stop`; the server's own callback would report it as unhandled
        finally:
            writer.transport.abort()
            self._writers.discard(writer)
            self._tasks.discard(task)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_unix_connection(str(self.target))
        self._writers.add(far_writer)

        def to_server(kind: int, flags: int) -> None:
            if kind != PING or not flags & ACK:
                self.to_server[kind] += 1

        def to_client(kind: int, flags: int) -> None:
            if kind != PING or not flags & ACK:
                self.to_client[kind] += 1

        try:
            ways = [
                asyncio.ensure_future(_pump(reader, far_writer, Frames(PREFACE_BYTES, to_server))),
                asyncio.ensure_future(_pump(far_reader, writer, Frames(0, to_client))),
            ]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
        finally:
            far_writer.transport.abort()
            self._writers.discard(far_writer)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, frames: Frames) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            frames.feed(data)
            writer.write(data)
            await writer.drain()
