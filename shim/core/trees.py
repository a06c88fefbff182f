# SPDX-License-Identifier: Apache-2.0
"""Decides what has to travel so that a tree of files at T becomes like the one at S.

A snapshot holds what a scan saw, in records that the C library writes and compares
(native/include/podferry/tree.h), and what T is known to have: the hashes of each file's blocks. A
plan is the way from one snapshot to the next. Nothing here reads a file.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from shim.errors import InvalidMessage

# struct pf_tree_record: bytes, flags, mode, uid, gid, links, inode, size, mtime_s, ctime_s,
# mtime_ns, ctime_ns, device; the path follows.
RECORD = struct.Struct("<6IQQqqIIQ")
BLOCK_BYTES = 64 << 10
HASH_BYTES = 8

WHITEOUT = 1 << 0
OPAQUE = 1 << 1
REDIRECT = 1 << 2

# A smaller file that has moved is sent again rather than found at its old place.
_STASH_BYTES = 1


@dataclass(frozen=True, slots=True)
class Entry:
    """One file, directory or other thing with a name, or the mark that hides one.

    Attributes:
        path: from the root, b"" for the root itself.
        flags: WHITEOUT, OPAQUE, REDIRECT.
        mode: kind and permissions, as st_mode.
        uid: owner.
        gid: group.
        links: how many names it has; 0 for directories.
        inode: at S, 0 where that says nothing.
        size: in bytes; 0 for directories.
        mtime: seconds and nanoseconds.
        ctime: seconds and nanoseconds.
        device: of a device node: major << 32 | minor.
    """

    path: bytes
    flags: int
    mode: int
    uid: int
    gid: int
    links: int
    inode: int
    size: int
    mtime: tuple[int, int]
    ctime: tuple[int, int]
    device: int

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return stat.S_ISREG(self.mode)

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_whiteout(self) -> bool:
        """Whether it hides an entry of the layer below."""
        return bool(self.flags & WHITEOUT)

    @property
    def is_linked(self) -> bool:
        """Whether it has other names."""
        return self.links > 1


def entry_at(records: bytes, offset: int) -> Entry:
    """The record at an offset.

    Raises:
        InvalidMessage: there is none.
    """
    try:
        (size, flags, mode, uid, gid, links, inode, length, mtime_s, ctime_s, mtime_ns, ctime_ns,
         device) = RECORD.unpack_from(records, offset)  # fmt: skip
    except struct.error as error:
        raise InvalidMessage(f"no record of a tree at {offset}") from error
    if size < RECORD.size or offset + size > len(records):
        raise InvalidMessage(f"a record of a tree at {offset} has {size} bytes")
    path = records[offset + RECORD.size : offset + size]
    return Entry(path, flags, mode, uid, gid, links, inode, length, (mtime_s, mtime_ns),
                 (ctime_s, ctime_ns), device)  # fmt: skip


def packed(entry: Entry) -> bytes:
    """An entry as a record."""
    one = entry
    head = RECORD.pack(
        RECORD.size + len(one.path), one.flags, one.mode, one.uid, one.gid, one.links, one.inode,
        one.size, one.mtime[0], one.ctime[0], one.mtime[1], one.ctime[1], one.device,
    )  # fmt: skip
    return head + one.path


def order(path: bytes) -> bytes:
    """The key by which records are in order: a directory before what is in it."""
    return path.replace(b"/", b"\0")


@dataclass(frozen=True)
class Snapshot:
    """A tree as it was seen, and what the other end has of it.

    Attributes:
        records: every entry, in order.
        entries: how many.
        file_system: the root's device at S.
        blocks: hashes of what T has, by path; a file that is missing here is sent whole.
        unsettled: inodes of files that may change without their ctime telling; they are read again.
        volatile: whether ctime tells too little of any file (tmpfs: writes to mapped memory).
        foreign: whether it describes T's tree, so that inodes and ctime say nothing about S's.
        seed: of the hashes; a secret that goes to no pod.
        taken_ns: when the scan began, by the wall clock.
    """

    records: bytes
    entries: int
    file_system: int = 0
    blocks: Mapping[bytes, bytes] = field(default_factory=dict)
    unsettled: frozenset[int] = frozenset()
    volatile: bool = False
    foreign: bool = False
    seed: int = 0
    taken_ns: int = 0

    def __iter__(self) -> Iterator[Entry]:
        """Its entries in order."""
        offset = 0
        while offset < len(self.records):
            entry = entry_at(self.records, offset)
            yield entry
            offset += RECORD.size + len(entry.path)

    @cached_property
    def linked(self) -> Mapping[int, tuple[Entry, ...]]:
        """Entries with several names, by inode."""
        found: dict[int, list[Entry]] = {}
        for entry in self:
            if entry.is_linked:
                found.setdefault(entry.inode, []).append(entry)
        return {inode: tuple(entries) for inode, entries in found.items()}


Pair = tuple[Entry | None, Entry | None]


@dataclass(frozen=True, slots=True)
class Content:
    """A regular file to be brought up to date.

    Attributes:
        entry: as it is at S.
        base: hashes of what T has at this path (or in the stash); None: T makes it anew.
        stash: where T keeps what has moved here; -1: it is at its path.
        is_known: nothing but its name or attributes can have changed: it need not be read.
    """

    entry: Entry
    base: bytes | None = None
    stash: int = -1
    is_known: bool = False


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory to be made or to get its attributes.

    Attributes:
        entry: as it is at S.
        is_replaced: whatever T has there goes first, so that nothing of a lower layer shows.
    """

    entry: Entry
    is_replaced: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What brings T from one snapshot to another, in the order in which it has to happen.

    Attributes:
        new: the snapshot it leads to; its blocks are those that T had before.
        stashes: files that move: their old paths; their place in the list is their number.
        removals: paths that go, each with what is below it.
        made: what is made or changed, in order.
        links: further names: path, and the path of the entry that has it already.
        suspicious: inodes that stay unsettled after this round.
    """

    new: Snapshot
    stashes: tuple[bytes, ...] = ()
    removals: tuple[bytes, ...] = ()
    made: tuple[Content | Directory | Entry, ...] = ()
    links: tuple[tuple[bytes, Entry], ...] = ()
    suspicious: frozenset[int] = frozenset()

    @property
    def is_empty(self) -> bool:
        """Whether T has everything."""
        return not (self.stashes or self.removals or self.made or self.links)


def pairs(old: Snapshot, new: Snapshot, forced: frozenset[int] = frozenset()) -> list[Pair]:
    """The entries that differ; the C library's pf_tree_compare does the same, faster.

    Args:
        old: a snapshot.
        new: a later one.
        forced: inodes of regular files that count as changed.
    """
    left = {entry.path: entry for entry in old}
    right = {entry.path: entry for entry in new}
    found: list[Pair] = []
    for path in sorted(left.keys() | right.keys(), key=order):
        before, after = left.get(path), right.get(path)
        looked_at = after is not None and after.is_file
        if before != after or (looked_at and after.inode in forced):  # type: ignore[union-attr]
            found.append((before, after))
    return found


def difference(
    old: Snapshot | None,
    new: Snapshot,
    differing: Iterable[Pair] | None = None,
    suspicious: frozenset[int] = frozenset(),
) -> Plan:
    """What has to happen at T so that it has what ``new`` saw.

    Args:
        old: what T has: the snapshot that the last round reached, or T's own; None for nothing.
        new: the tree at S.
        differing: the pairs that differ, if they are known already.
        suspicious: inodes of files that are mapped and can be written to.
    """
    before = old or Snapshot(b"", 0)
    found = pairs(before, new, suspicious | before.unsettled) if differing is None else differing
    return _Planning(before, new, list(found), suspicious).plan()


class _Planning:
    def __init__(
        self, old: Snapshot, new: Snapshot, differing: Sequence[Pair], suspicious: frozenset[int]
    ) -> None:
        self.old = old
        self.new = new
        self.suspicious = suspicious
        self.differing = differing
        self.changed: dict[bytes, Pair] = {}
        self.replaced: list[bytes] = []
        self._collect()
        self.stashes: dict[bytes, int] = {}
        self.moved: dict[bytes, Entry] = {}
        if not old.foreign:
            self._find_moved()

    def _collect(self) -> None:
        """Everything that differs, with all that is below a directory that is made anew."""
        for before, after in self.differing:
            entry = before or after
            assert entry is not None
            self.changed[entry.path] = (before, after)
            if after and after.is_directory and self._is_replaced(before, after):
                self.replaced.append(after.path + b"/")
        if self.replaced:
            prefixes = tuple(self.replaced)
            for entry in self.new:
                if entry.path.startswith(prefixes):
                    self.changed[entry.path] = (None, entry)

    def _is_replaced(self, before: Entry | None, after: Entry) -> bool:
        if before is None or not before.is_directory:
            # Where T's lower layer has a directory, an opaque one must not show it.
            return bool(after.flags & OPAQUE)
        if after.path == b"":
            return False
        same = self.old.foreign or before.inode == after.inode
        return not same or (before.flags ^ after.flags) & OPAQUE != 0

    def _find_moved(self) -> None:
        """Files whose inode was elsewhere before, so that T moves them as well."""
        gone: dict[int, Entry] = {}
        for before, after in self.differing:
            if before and before.is_file and (after is None or after.inode != before.inode):
                gone[before.inode] = before
        for path, (before, after) in self.changed.items():
            if after is None or not after.is_file or after.is_linked:
                continue
            source = gone.get(after.inode)
            if source is None or (before and before.inode == after.inode):
                continue
            if source.is_linked or source.size < _STASH_BYTES:
                continue
            if source.path in self.old.blocks:
                self.stashes[source.path] = len(self.stashes)
                self.moved[path] = source

    def plan(self) -> Plan:
        made: list[Content | Directory | Entry] = []
        removals: list[bytes] = []
        links: list[tuple[bytes, Entry]] = []
        first_of: dict[int, Entry] = {}
        inside = b"/"  # of a directory that goes; no path begins like this
        for path in sorted(self.changed, key=order):
            before, after = self.changed[path]
            if after is None or after.is_whiteout:
                if not path.startswith(inside):
                    removals.append(path)
                    inside = path + b"/" if after is None else inside
                continue
            if after.is_directory:
                made.append(Directory(after, path + b"/" in self.replaced))
            elif after.is_linked and self._primary(after, first_of).path != path:
                links.append((path, first_of[after.inode]))
            elif after.is_file:
                made.append(self._content(before, after))
            else:
                made.append(after)
        return Plan(
            new=replace(self.new, blocks=self.old.blocks, seed=self.old.seed or self.new.seed),
            stashes=tuple(self.stashes),
            removals=tuple(removals),
            made=tuple(made),
            links=tuple(links),
            suspicious=self.suspicious,
        )

    def _primary(self, entry: Entry, first_of: dict[int, Entry]) -> Entry:
        """The name that carries the content of an entry with several, by preference T's own."""
        if entry.inode not in first_of:
            names = self.new.linked[entry.inode]
            kept = [one for one in names if self._is_in_place(one)]
            made = [one for one in names if one.path in self.changed]
            first_of[entry.inode] = (kept or made)[0]
        return first_of[entry.inode]

    def _is_in_place(self, entry: Entry) -> bool:
        """Whether T has the same file under this name."""
        before, after = self.changed.get(entry.path, (entry, entry))
        if before is None or after is None or entry.path not in self.old.blocks:
            return False
        return not self.old.foreign and before.inode == after.inode

    def _content(self, before: Entry | None, after: Entry) -> Content:
        path = after.path
        if path in self.moved:
            source = self.moved[path]
            return Content(
                after,
                self.old.blocks[source.path],
                self.stashes[source.path],
                self._is_known(source, after),
            )
        if before is None or not before.is_file or path not in self.old.blocks:
            return Content(after)
        if self.old.foreign:
            # T's own file may be written over only if no other name of T's shows it.
            alone = not before.is_linked and not after.is_linked
            return Content(after, self.old.blocks[path]) if alone else Content(after)
        if before.inode != after.inode:
            return Content(after)
        return Content(after, self.old.blocks[path], is_known=self._is_known(before, after))

    def _is_known(self, before: Entry, after: Entry) -> bool:
        """Whether ctime proves that a file is as it was; true of what moved with its directory."""
        forced = self.suspicious | self.old.unsettled
        if self.new.volatile or after.inode in forced:
            return False
        return before.ctime == after.ctime and before.size == after.size
