# SPDX-License-Identifier: Apache-2.0
"""Writes and reads the frames in which the changes of a tree travel; docs/wire.md has the layout.

What is read comes from a peer and is hostile: every length is checked, and every path is a sequence
of plain names below the root.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from shim.errors import InvalidMessage

FRAME_BYTES_MAX = 1 << 20
MAGIC = b"PFTR"
VERSION = 1
HEADER = struct.Struct("<4sBBHI")  # magic, version, 0, 0, bytes of the records
RECORD = struct.Struct("<BBHI")  # operation, flags, bytes of the path, bytes of the body

PATH_BYTES_MAX = 16 << 10
NAME_BYTES_MAX = 255
DEPTH_MAX = 512
XATTR_BYTES_MAX = 128 << 10
_XATTR_NAME_BYTES_MAX = 255
_XATTRS_MAX = 1024

ATTRIBUTES = struct.Struct("<IIIIqIH2x")  # mode, uid, gid, 0, mtime_s, mtime_ns, xattrs
XATTR = struct.Struct("<HI")  # bytes of the name, bytes of the value
OFFSET = struct.Struct("<Q")
RANGE = struct.Struct("<QQ")
NUMBER = struct.Struct("<I")
TOTALS = struct.Struct("<QQQ")  # entries, and the two halves of the summary


class Operation(enum.IntEnum):
    """What a record does; records come in the order of their groups."""

    BEGIN = 1
    STASH = 2
    REMOVE = 3
    DIRECTORY = 4
    FILE = 5
    DATA = 6
    HOLE = 7
    END = 8
    SYMLINK = 9
    NODE = 10
    LINK = 11
    FINISH = 12


REPLACE = 1 << 0  # DIRECTORY: whatever is there goes first
FRESH = 1 << 1  # FILE: made anew
STASHED = 1 << 2  # FILE: taken from the stash
TORN = 1 << 3  # END: it changed while it was read; it will come again


@dataclass(frozen=True, slots=True)
class Record:
    """One record of a frame, checked for form."""

    operation: Operation
    flags: int
    path: bytes
    body: memoryview


@dataclass(frozen=True, slots=True)
class Attributes:
    """What an entry has beside its content.

    Attributes:
        mode: kind and permissions.
        uid: owner.
        gid: group.
        mtime: seconds and nanoseconds.
        xattrs: extended attributes.
    """

    mode: int
    uid: int
    gid: int
    mtime: tuple[int, int]
    xattrs: tuple[tuple[bytes, bytes], ...] = ()

    def packed(self) -> bytes:
        """As it travels."""
        parts = [
            ATTRIBUTES.pack(
                self.mode, self.uid, self.gid, 0, self.mtime[0], self.mtime[1], len(self.xattrs)
            )
        ]
        for name, value in self.xattrs:
            parts += [XATTR.pack(len(name), len(value)), name, value]
        return b"".join(parts)


class FrameWriter:
    """Collects records into frames."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._used = 0

    def add(
        self, operation: Operation, path: bytes = b"", body: bytes = b"", flags: int = 0
    ) -> Iterator[bytes]:
        """Adds a record; yields a frame if the record does not fit into the present one."""
        size = RECORD.size + len(path) + len(body)
        if HEADER.size + self._used + size > FRAME_BYTES_MAX:
            yield from self.flush()
        self._parts += [RECORD.pack(operation, flags, len(path), len(body)), path, body]
        self._used += size

    def flush(self) -> Iterator[bytes]:
        """Yields what is collected, if there is anything."""
        if self._parts:
            yield b"".join([HEADER.pack(MAGIC, VERSION, 0, 0, self._used), *self._parts])
            self._parts.clear()
            self._used = 0


def records(frame: bytes) -> Iterator[Record]:
    """The records of a frame.

    Raises:
        InvalidMessage: it is not a frame of this version, or a record is malformed.
    """
    if len(frame) < HEADER.size or len(frame) > FRAME_BYTES_MAX:
        raise InvalidMessage(f"a frame of a tree has {len(frame)} bytes")
    magic, version, zero, zeros, size = HEADER.unpack_from(frame)
    if magic != MAGIC or zero or zeros:
        raise InvalidMessage("this is no frame of a tree")
    if version != VERSION:
        raise InvalidMessage(
            f"a frame of a tree has version {version}, not {VERSION}",
            remedy="run the same podferry on both nodes",
        )
    if HEADER.size + size != len(frame):
        raise InvalidMessage(f"a frame of {len(frame)} bytes says {size}")
    view, at = memoryview(frame), HEADER.size
    while at < len(frame):
        if len(frame) - at < RECORD.size:
            raise InvalidMessage("a record is cut off")
        number, flags, path_bytes, body_bytes = RECORD.unpack_from(frame, at)
        at += RECORD.size
        if path_bytes + body_bytes > len(frame) - at:
            raise InvalidMessage("a record is longer than its frame")
        path = bytes(view[at : at + path_bytes])
        body = view[at + path_bytes : at + path_bytes + body_bytes]
        at += path_bytes + body_bytes
        try:
            operation = Operation(number)
        except ValueError:
            raise InvalidMessage(f"no operation has the number {number}") from None
        yield Record(operation, flags, path, body)


def check_path(path: bytes) -> bytes:
    """A path below the root: plain names, joined by single slashes.

    Raises:
        InvalidMessage: it is empty, absolute, too long, or a name is none or leads elsewhere.
    """
    if not path or len(path) > PATH_BYTES_MAX or b"\0" in path:
        raise InvalidMessage("a path is empty, too long or has a NUL", where=shown(path))
    names = path.split(b"/")
    if len(names) > DEPTH_MAX:
        raise InvalidMessage("a path is too deep", where=shown(path))
    for name in names:
        if not name or name in (b".", b"..") or len(name) > NAME_BYTES_MAX:
            raise InvalidMessage("a path leads out of its tree", where=shown(path))
    return path


def shown(path: bytes) -> str:
    """A path for people, cut if it is long."""
    return repr(path[:200])[2:-1] + ("..." if len(path) > 200 else "")


def read_attributes(body: memoryview) -> tuple[Attributes, memoryview]:
    """Attributes at the start of a body, and the rest of it.

    Raises:
        InvalidMessage: they are malformed.
    """
    if len(body) < ATTRIBUTES.size:
        raise InvalidMessage("attributes are cut off")
    mode, uid, gid, zero, mtime_s, mtime_ns, count = ATTRIBUTES.unpack_from(body)
    if zero or mode > 0o177777 or mtime_ns >= 1_000_000_000 or count > _XATTRS_MAX:
        raise InvalidMessage("attributes have values that no file has")
    rest, xattrs, total = body[ATTRIBUTES.size :], [], 0
    for _ in range(count):
        if len(rest) < XATTR.size:
            raise InvalidMessage("an extended attribute is cut off")
        name_bytes, value_bytes = XATTR.unpack_from(rest)
        total += name_bytes + value_bytes
        if name_bytes > _XATTR_NAME_BYTES_MAX or total > XATTR_BYTES_MAX:
            raise InvalidMessage("extended attributes are too large")
        if XATTR.size + name_bytes + value_bytes > len(rest):
            raise InvalidMessage("an extended attribute is cut off")
        name = bytes(rest[XATTR.size : XATTR.size + name_bytes])
        end = XATTR.size + name_bytes + value_bytes
        xattrs.append((name, bytes(rest[XATTR.size + name_bytes : end])))
        rest = rest[end:]
    return Attributes(mode, uid, gid, (mtime_s, mtime_ns), tuple(xattrs)), rest


def fixed(layout: struct.Struct, body: memoryview) -> tuple[int, ...]:
    """The numbers that a body consists of.

    Raises:
        InvalidMessage: it has another length.
    """
    if len(body) != layout.size:
        raise InvalidMessage(f"a body has {len(body)} bytes, not {layout.size}")
    return layout.unpack(body)
