# SPDX-License-Identifier: Apache-2.0
"""Reads what a plan needs from S's tree and makes frames of it, while the pod may write to it."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace

from shim._native_tree import BlockReader
from shim.core.tree_frames import (
    FRESH,
    NUMBER,
    OFFSET,
    RANGE,
    REPLACE,
    STASHED,
    TORN,
    TOTALS,
    Attributes,
    FrameWriter,
    Operation,
)
from shim.core.trees import (
    BLOCK_BYTES,
    HASH_BYTES,
    Content,
    Directory,
    Entry,
    Plan,
    Snapshot,
    packed,
)
from shim.errors import InvalidMessage
from shim.files import attributes, blocks
from shim.files.confined import Confined
from shim.files.tree import RACY_NS, Summary, Tree, require_whole

# What a file that goes away while it is read gives.
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.ESTALE, errno.EXDEV)


@dataclass(slots=True)
class Figures:
    """What a round has read and sent.

    Attributes:
        files: regular files that were opened.
        read_bytes: bytes read from them.
        sent_bytes: bytes of content in the frames.
        skipped: entries that went away before they were read.
    """

    files: int = 0
    read_bytes: int = 0
    sent_bytes: int = 0
    skipped: int = 0


class Reading:
    """The frames of one round; they are made as they are asked for.

    After the last one, and once T has applied them, `reached` is what the next round starts from.

    Args:
        tree: S's tree.
        plan: what has to happen.
    """

    def __init__(self, tree: Tree, plan: Plan) -> None:
        self.plan = plan
        self.figures = Figures()
        self._tree = tree
        self._reader = BlockReader(plan.new.seed)
        self._writer = FrameWriter()
        self._blocks: dict[bytes, bytes] = {}
        self._lost: set[bytes] = set()
        self._unsettled: set[int] = set()
        self._is_in_file = False

    def frames(self) -> Iterator[bytes]:
        """Yields the frames.

        Raises:
            NotFound: the tree's root is gone.
            MissingFeature: the overlay keeps content outside of its upper directory.
            Refused: an entry cannot travel.
            OSError: a file cannot be read.
        """
        add, plan = self._writer.add, self.plan
        yield from add(Operation.BEGIN, body=OFFSET.pack(plan.new.entries))
        for number, path in enumerate(plan.stashes):
            yield from add(Operation.STASH, path, NUMBER.pack(number))
        for path in plan.removals:
            yield from add(Operation.REMOVE, path)
        with Confined(self._tree.root) as place:
            for step in plan.made:
                yield from self._step(place, step)
        for path, target in plan.links:
            if target.path in self._lost:
                self._lost.add(path)
            else:
                yield from add(Operation.LINK, path, target.path)
        total = self._tree.summary(plan.new)
        yield from add(Operation.FINISH, body=TOTALS.pack(total.entries, total.low, total.high))
        yield from self._writer.flush()

    def reached(self) -> Snapshot:
        """What T has once it has applied all frames."""
        old = self.plan.new.blocks
        gone = {*self.plan.removals, *self.plan.stashes, *self._lost}
        kept = {path: hashes for path, hashes in old.items() if path not in gone}
        return replace(
            self.plan.new,
            records=self._records(),
            blocks={**kept, **self._blocks},
            unsettled=frozenset(self._unsettled) | self.plan.suspicious,
        )

    def _records(self) -> bytes:
        """What was scanned; what went away then is marked so that it is equal to nothing."""
        if not self._lost:
            return self.plan.new.records
        return b"".join(
            packed(replace(one, inode=0, ctime=(0, 0)) if one.path in self._lost else one)
            for one in self.plan.new
        )

    def _step(self, place: Confined, step: Content | Directory | Entry) -> Iterator[bytes]:
        entry = step if isinstance(step, Entry) else step.entry
        if self._is_below_lost(entry.path):
            self._lose(entry)
            return
        try:
            if isinstance(step, Content):
                yield from self._content(place, step)
            elif isinstance(step, Directory):
                yield from self._directory(place, step)
            else:
                yield from self._other(place, step)
        except (OSError, InvalidMessage) as error:
            if isinstance(error, OSError) and error.errno not in _GONE:
                raise
            if self._is_in_file:
                torn = Attributes(entry.mode, entry.uid, entry.gid, entry.mtime)
                yield from self._writer.add(Operation.END, entry.path, torn.packed(), TORN)
            self._lose(entry)
        self._is_in_file = False

    def _lose(self, entry: Entry) -> None:
        """An entry that went away: the next scan tells what has become of it."""
        self.figures.skipped += 1
        self._lost.add(entry.path)
        self._blocks.pop(entry.path, None)

    def _is_below_lost(self, path: bytes) -> bool:
        return bool(self._lost) and any(path.startswith(one + b"/") for one in self._lost)

    def _directory(self, place: Confined, step: Directory) -> Iterator[bytes]:
        entry = step.entry
        require_whole(entry)
        if entry.path:
            parent, name = place.parent(entry.path)
            with attributes.pinned(parent, name, entry) as found:
                wanted = attributes.of_pinned(entry, found)
        else:
            wanted = attributes.of(entry, place.root_fd)
        flags = REPLACE if step.is_replaced else 0
        yield from self._writer.add(Operation.DIRECTORY, entry.path, wanted.packed(), flags)

    def _other(self, place: Confined, entry: Entry) -> Iterator[bytes]:
        parent, name = place.parent(entry.path)
        with attributes.pinned(parent, name, entry) as found:
            wanted = attributes.of_pinned(entry, found).packed()
            is_link = stat.S_ISLNK(entry.mode)
            target = os.fsencode(os.readlink(b"", dir_fd=found)) if is_link else b""
        if is_link:
            yield from self._writer.add(Operation.SYMLINK, entry.path, wanted + target)
        else:
            body = wanted + OFFSET.pack(entry.device)
            yield from self._writer.add(Operation.NODE, entry.path, body)

    def _content(self, place: Confined, step: Content) -> Iterator[bytes]:
        entry = step.entry
        with place.opened(entry.path, os.O_RDONLY | os.O_NOATIME) as fd:
            began_ns = time.time_ns()
            seen = os.fstat(fd)
            flags, number = 0, b""
            if step.stash >= 0:
                flags, number = STASHED, NUMBER.pack(step.stash)
            elif step.base is None:
                flags = FRESH
            body = OFFSET.pack(seen.st_size) + number
            self._is_in_file = True
            yield from self._writer.add(Operation.FILE, entry.path, body, flags)
            if step.is_known and seen.st_size == entry.size:
                hashes = step.base or b""
            else:
                hashes = yield from self._data(fd, seen.st_size, step.base)
            wanted = attributes.of(entry, fd)
            after = os.fstat(fd)
            is_torn = _moment(seen) != _moment(after)
            if is_torn or after.st_ctime_ns > began_ns - RACY_NS:
                self._unsettled.add(entry.inode)
            yield from self._end(entry, wanted, after, is_torn)
            self._blocks[entry.path] = hashes

    def _end(
        self, entry: Entry, wanted: Attributes, after: os.stat_result, is_torn: bool
    ) -> Iterator[bytes]:
        """The file's attributes, as they are after it was read."""
        mtime = divmod(after.st_mtime_ns, 1_000_000_000)
        late = replace(wanted, mode=after.st_mode, uid=after.st_uid, gid=after.st_gid, mtime=mtime)
        flags = TORN if is_torn else 0
        self._is_in_file = False
        yield from self._writer.add(Operation.END, entry.path, late.packed(), flags)

    def _data(self, fd: int, size_bytes: int, base: bytes | None) -> Generator[bytes, None, bytes]:
        """Yields what differs from ``base``; returns the hashes of what T then has."""
        self.figures.files += 1
        have = (base or b"").ljust(blocks.count(size_bytes) * HASH_BYTES, b"\0")
        found = bytearray(blocks.count(size_bytes) * HASH_BYTES)
        at = 0
        for offset, length in blocks.windows(fd, size_bytes):
            yield from self._holes(have, at, offset)
            got = blocks.read(self._reader, fd, offset, length)
            self.figures.read_bytes += got
            yield from self._window(have, found, offset, got)
            at = offset + length
            if got < length:
                break
        yield from self._holes(have, at, size_bytes)
        return bytes(found)

    def _window(self, have: bytes, found: bytearray, offset: int, got: int) -> Iterator[bytes]:
        """The blocks of a window that differ, neighbours together."""
        first = offset // BLOCK_BYTES * HASH_BYTES
        used = blocks.count(got) * HASH_BYTES
        hashes = bytes(self._reader.hashes[:used])
        found[first : first + used] = hashes
        before = have[first : first + used]
        if hashes == before:
            return
        start = -1
        for at in range(0, used, HASH_BYTES):
            one = hashes[at : at + HASH_BYTES]
            differs = one != before[at : at + HASH_BYTES]
            if differs and one == blocks.ZERO:
                yield from self._hole(offset + at // HASH_BYTES * BLOCK_BYTES, BLOCK_BYTES)
            if differs and one != blocks.ZERO:
                start = at if start < 0 else start
            elif start >= 0:
                yield from self._send(offset, start, at, got)
                start = -1
        if start >= 0:
            yield from self._send(offset, start, used, got)

    def _send(self, offset: int, start: int, end: int, got: int) -> Iterator[bytes]:
        first = start // HASH_BYTES * BLOCK_BYTES
        last = min(end // HASH_BYTES * BLOCK_BYTES, got)
        self.figures.sent_bytes += last - first
        body = OFFSET.pack(offset + first) + bytes(self._reader.data[first:last])
        yield from self._writer.add(Operation.DATA, body=body)

    def _holes(self, have: bytes, start: int, end: int) -> Iterator[bytes]:
        """What T has between two offsets becomes a hole: at S there is one."""
        piece = have[blocks.count(start) * HASH_BYTES : blocks.count(end) * HASH_BYTES]
        if piece.strip(b"\0"):
            yield from self._hole(start, end - start)

    def _hole(self, offset: int, length: int) -> Iterator[bytes]:
        yield from self._writer.add(Operation.HOLE, body=RANGE.pack(offset, length))


def read_frames(tree: Tree, plan: Plan) -> Iterator[bytes]:
    """The frames of a plan, for whoever needs nothing of the round afterwards."""
    return Reading(tree, plan).frames()


def summary_of(body: memoryview) -> Summary:
    """What the body of FINISH says of S's tree.

    Raises:
        InvalidMessage: it has another length.
    """
    if len(body) != TOTALS.size:
        raise InvalidMessage("the end of a round is malformed")
    entries, low, high = TOTALS.unpack(body)
    return Summary(entries, low, high)


def _moment(seen: os.stat_result) -> tuple[int, int, int]:
    return seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns
