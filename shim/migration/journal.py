# SPDX-License-Identifier: Apache-2.0
"""Keeps the records of moves on disk: one file a move, appended to, each record durable at return.

A file is written in full when it is made, so that a record in the freeze changes no metadata of the
file system: one write with O_DSYNC. Layout, little endian, one record after the other:

    u32 bytes of the payload, u32 CRC-32 of it, payload (JSON)

The first record whose length is 0 or whose sum does not fit is the end: what was being written at a
kill -9 does not count.
"""

from __future__ import annotations

import logging
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from shim.errors import InvalidMessage, Refused

logger = logging.getLogger(__name__)

Record = TypeVar("Record")

_HEAD = struct.Struct("<II")
FILE_BYTES = 256 << 10
"""Room of one move: a record carries what is needed to go on, some KiB per container."""


class MoveLog(Generic[Record]):
    """The open log of one move.

    Args:
        path: its file, which exists.
        kind: the type of its records.
    """

    def __init__(self, path: Path, kind: type[Record]) -> None:
        self._path = path
        self._fd = os.open(path, os.O_RDWR | os.O_DSYNC | os.O_CLOEXEC)
        self.last, self._end = _read(self._fd, kind)

    def write(self, record: Record) -> None:
        """Appends a record.

        Raises:
            OSError, Refused: it is not durable; the one before stands.
        """
        payload = msgspec.json.encode(record)
        data = _HEAD.pack(len(payload), zlib.crc32(payload)) + payload
        if self._end + len(data) + _HEAD.size > FILE_BYTES:
            raise Refused("the log of this move is full", where=str(self._path))
        if os.pwrite(self._fd, data, self._end) != len(data):
            raise OSError(f"{self._path}: a record was not written whole")
        self._end += len(data)
        self.last = record

    def close(self) -> None:
        """Closes the file."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1


class MoveJournal(Generic[Record]):
    """The logs below one directory.

    Args:
        directory: on a disk, not in a tmpfs; made if absent.
        kind: the type of the records.
    """

    def __init__(self, directory: Path, kind: type[Record]) -> None:
        self._directory = directory
        self._kind = kind

    def begin(self, name: str, record: Record) -> MoveLog[Record]:
        """Makes the log of a new move with its first record.

        Raises:
            Refused: there is one already.
            OSError: it is not durable.
        """
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._path(name)
        if path.exists():
            raise Refused("a move with this id is known already", where=name)
        fresh = path.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(bytes(FILE_BYTES))
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
        self._sync()
        log = MoveLog(path, self._kind)
        log.write(record)
        return log

    def logs(self) -> Iterator[tuple[str, MoveLog[Record]]]:
        """Every log with a record; others are told of and left."""
        if not self._directory.is_dir():
            return
        for path in sorted(self._directory.glob("*.log")):
            try:
                log = MoveLog(path, self._kind)
            except (OSError, InvalidMessage) as error:
                logger.error("log of a move cannot be read path=%s error=%s", path, error)
                continue
            if log.last is None:
                log.close()  # killed before its first record: nothing was done yet
                self.remove(path.stem)
                continue
            yield path.stem, log

    def find(self, name: str) -> MoveLog[Record] | None:
        """The log of a move; None if there is none."""
        path = self._path(name)
        return MoveLog(path, self._kind) if path.exists() else None

    def remove(self, name: str) -> None:
        """Removes the log of a move, if there is one."""
        self._path(name).unlink(missing_ok=True)
        self._sync()

    def _path(self, name: str) -> Path:
        if not name.replace("-", "").isalnum():
            raise InvalidMessage(f"no id of a move: {name!r}")
        return self._directory / f"{name}.log"

    def _sync(self) -> None:
        if self._directory.is_dir():
            fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)


def _read(fd: int, kind: type[Record]) -> tuple[Record | None, int]:
    """The last whole record and where the next one goes."""
    data = os.pread(fd, FILE_BYTES, 0)
    offset, last = 0, None
    while offset + _HEAD.size <= len(data):
        size, crc = _HEAD.unpack_from(data, offset)
        payload = data[offset + _HEAD.size : offset + _HEAD.size + size]
        if size == 0 or len(payload) != size or zlib.crc32(payload) != crc:
            break
        try:
            last = msgspec.json.decode(payload, type=kind)
        except msgspec.DecodeError as error:
            # Of another release, or not ours: nobody may guess what it says.
            raise InvalidMessage(f"a record is not understood: {error}") from error
        offset += _HEAD.size + size
    return last, offset
