# SPDX-License-Identifier: Apache-2.0
"""Reads the statistics that CRIU writes beside its images."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.message import DecodeError

from cri_proto import criu_stats_pb2 as pb
from shim.errors import InvalidMessage

# criu/include/magic.h of CRIU 4.2: a service file, then statistics; then a length and the entry.
_SERVICE_MAGIC = 0x55105940
_STATS_MAGIC = 0x57093306
_HEADER = struct.Struct("<III")


@dataclass(frozen=True, slots=True)
class DumpStats:
    """What a dump took. The tasks stand still for ``frozen_ms``."""

    freezing_ms: float
    frozen_ms: float
    memory_dump_ms: float
    memory_write_ms: float
    pages_written: int
    pages_lazy: int


@dataclass(frozen=True, slots=True)
class RestoreStats:
    """What a restore took."""

    fork_ms: float
    restore_ms: float
    pages_restored: int


def read_dump(images_dir: Path) -> DumpStats:
    """Reads ``stats-dump``.

    Raises:
        InvalidMessage: it is no statistics file.
        OSError: it cannot be read.
    """
    entry = _read(images_dir / "stats-dump").dump
    return DumpStats(
        freezing_ms=entry.freezing_time / 1000,
        frozen_ms=entry.frozen_time / 1000,
        memory_dump_ms=entry.memdump_time / 1000,
        memory_write_ms=entry.memwrite_time / 1000,
        pages_written=entry.pages_written,
        pages_lazy=entry.pages_lazy,
    )


def read_restore(images_dir: Path) -> RestoreStats:
    """Reads ``stats-restore``; raises as ``read_dump`` does."""
    entry = _read(images_dir / "stats-restore").restore
    return RestoreStats(
        fork_ms=entry.forking_time / 1000,
        restore_ms=entry.restore_time / 1000,
        pages_restored=entry.pages_restored,
    )


def _read(path: Path) -> pb.stats_entry:
    data = path.read_bytes()
    if len(data) < _HEADER.size:
        raise InvalidMessage("statistics of CRIU are cut short", where=str(path))
    first, second, length = _HEADER.unpack_from(data)
    body = data[_HEADER.size : _HEADER.size + length]
    if (first, second) != (_SERVICE_MAGIC, _STATS_MAGIC) or len(body) != length:
        raise InvalidMessage("no statistics of CRIU", where=str(path))
    try:
        return pb.stats_entry.FromString(body)
    except DecodeError as error:
        raise InvalidMessage(f"no statistics of CRIU: {error}", where=str(path)) from error
