# SPDX-License-Identifier: Apache-2.0
"""Keeps the records of sleeping pods on disk: one file each, replaced whole, durable at return."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from shim.core.sleep_record import SleepRecord

logger = logging.getLogger(__name__)


class SleepJournal:
    """The records below one directory.

    Args:
        directory: on a disk, not in a tmpfs; made if absent.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def write(self, record: SleepRecord) -> None:
        """Writes a record or replaces it.

        Raises:
            OSError: it is not durable; the old one, if any, stands.
        """
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._path(record.sandbox_id)
        fresh = path.with_suffix(".new")
        with fresh.open("wb") as file:
            file.write(msgspec.json.encode(record))
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
        self._sync()

    def remove(self, sandbox_id: str) -> None:
        """Removes a record, if there is one."""
        self._path(sandbox_id).unlink(missing_ok=True)
        self._sync()

    def records(self) -> Iterator[SleepRecord]:
        """Every record that can be read; others are told of and left."""
        if not self._directory.is_dir():
            return
        for path in sorted(self._directory.glob("*.json")):
            record = _read(path)
            if record is not None:
                yield record

    def find(self, sandbox_id: str) -> SleepRecord | None:
        """The record of one sandbox, as it is now."""
        path = self._path(sandbox_id)
        return _read(path) if path.exists() else None

    def _path(self, sandbox_id: str) -> Path:
        return self._directory / f"{sandbox_id}.json"

    def _sync(self) -> None:
        if self._directory.is_dir():
            fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)


def _read(path: Path) -> SleepRecord | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=SleepRecord)
    except FileNotFoundError:
        return None  # it has just been removed
    except (OSError, msgspec.DecodeError) as error:
        logger.error("record of a sleep cannot be read path=%s error=%s", path, error)
        return None
