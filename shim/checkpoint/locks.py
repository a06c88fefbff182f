# SPDX-License-Identifier: Apache-2.0
"""Lets one process of the service at a time change a pod's sleep, also while it is being replaced.

A process and its successor serve side by side for some seconds. The lock is a byte of a file, one
for each pod, held through the kernel, so it ends with its holder, however that ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
import struct
from collections.abc import AsyncIterator
from pathlib import Path

POLL_S = 0.005
# struct flock: type, whence, start, length, pid; locks of the open file, not of the process.
_FLOCK = struct.Struct("@hhqqi4x")
_F_OFD_SETLK = 37


class PodLocks:
    """The locks of one process.

    Args:
        path: the file; made when it is first needed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1
        self._here: dict[str, asyncio.Lock] = {}

    @contextlib.asynccontextmanager
    async def held(self, sandbox_id: str) -> AsyncIterator[None]:
        """Waits for a pod's lock and holds it for as long as the context lasts."""
        async with self._here.setdefault(sandbox_id, asyncio.Lock()):
            place = int.from_bytes(hashlib.sha256(sandbox_id.encode()).digest()[:7])
            while not self._set(fcntl.F_WRLCK, place):
                await asyncio.sleep(POLL_S)
            try:
                yield
            finally:
                self._set(fcntl.F_UNLCK, place)

    def close(self) -> None:
        """Lets go of all."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def _set(self, kind: int, place: int) -> bool:
        if self._fd < 0:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.fcntl(self._fd, _F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, place, 1, 0))
        except BlockingIOError:
            return False
        return True
