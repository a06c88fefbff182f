# SPDX-License-Identifier: Apache-2.0
"""A tree of files on this node: scanning it, and what its scans differ by."""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from shim import _native_tree
from shim._native_tree import BlockReader
from shim.core import trees
from shim.core.trees import BLOCK_BYTES, HASH_BYTES, REDIRECT, Entry, Pair, Plan, Snapshot
from shim.errors import InvalidMessage, MissingFeature, NativeError, NotFound, Refused
from shim.files import attributes
from shim.files.blocks import ZERO, hashes_of, windows
from shim.files.confined import Confined

ENTRIES_MAX = 4_000_000
# Something may change again within one tick of the clock that ctime is taken from (up to 10 ms, and
# the tick's own lateness), which a later scan cannot see.
RACY_NS = 30_000_000
_TMPFS = "tmpfs"


@dataclass(frozen=True, slots=True)
class Tree:
    """A directory whose contents travel.

    Attributes:
        root: what is scanned and read: a volume, or the upper directory of an overlay.
        is_overlay: whether it is such an upper directory.
        exclude: paths that stay out, with what is below them: mount points of the container.
        is_volatile: whether it is a tmpfs, whose files' times tell too little.
        entries_max: a scan with more entries is refused.
    """

    root: Path
    is_overlay: bool = False
    exclude: frozenset[bytes] = frozenset()
    is_volatile: bool = False
    entries_max: int = ENTRIES_MAX

    def scan(self) -> Snapshot:
        """What the tree has now; no file is opened. Entries that vanish meanwhile are left out.

        Raises:
            NotFound: the root is gone.
            Refused: there are too many entries, or they are nested too deep.
            MissingFeature: the overlay keeps content outside of its upper directory.
        """
        return self._scan(None, 0)

    def rescan(self, frozen: Snapshot) -> Snapshot:
        """What has changed since a scan that was made while the tasks were frozen already.

        CRIU's dump gives files that were deleted but have other names one more. Only directories
        are looked at, and what is in those that have changed: a tenth of a scan.

        Args:
            frozen: that scan. Had a task run since, changes of files would be missed.

        Raises:
            NotFound, Refused, MissingFeature: as `scan`.
        """
        return self._scan(frozen.records, frozen.taken_ns - RACY_NS)

    def _scan(self, old: bytes | None, settled_before_ns: int) -> Snapshot:
        taken_ns = time.time_ns()
        with Confined(self.root) as place:
            try:
                seen = _native_tree.scan(
                    place.root_fd,
                    overlay=self.is_overlay,
                    exclude=self.exclude,
                    entries_max=self.entries_max,
                    old=old,
                    settled_before_ns=settled_before_ns,
                )
            except NativeError as error:
                raise Refused(
                    f"the tree cannot be scanned: {error.what}", where=str(self.root)
                ) from error
        return Snapshot(
            seen.records,
            seen.entries,
            file_system=seen.file_system,
            volatile=self.is_volatile,
            seed=secrets.randbits(64),
            taken_ns=taken_ns,
        )

    def inventory(self) -> Snapshot:
        """What T has of a transfer that broke off: a scan with the hashes of all files.

        Raises:
            NotFound: the root is gone.
            Refused: the tree is too large.
        """
        scanned = self.scan()
        blocks: dict[bytes, bytes] = {}
        reader = BlockReader(scanned.seed)
        with Confined(self.root) as place:
            for entry in scanned:
                if entry.is_file:
                    try:
                        with place.opened(entry.path, os.O_RDONLY) as fd:
                            blocks[entry.path] = hashes_of(reader, fd, entry.size)
                    except (OSError, InvalidMessage):
                        continue  # it is sent whole
        return replace(scanned, blocks=blocks, foreign=True)

    def summary(self, scanned: Snapshot | None = None) -> Summary:
        """The cheap proof that two trees are alike: a count and a sum over all metadata."""
        seen = scanned or self.scan()
        low, high = _native_tree.summary(seen.records)
        return Summary(seen.entries, low, high)


@dataclass(frozen=True, slots=True)
class Summary:
    """What both ends compute of their trees: everything but inode numbers and ctime.

    Attributes:
        entries: how many.
        low: one half of the sum.
        high: the other half.
    """

    entries: int
    low: int
    high: int


def difference(
    old: Snapshot | None, new: Snapshot, suspicious: Iterable[tuple[int, int]] = ()
) -> Plan:
    """What has to happen at T; `shim.core.trees.difference` with the fast comparison.

    Args:
        old: what the last round reached, or T's own inventory; None for nothing.
        new: the tree now.
        suspicious: device (st_dev) and inode of files that are mapped; those of other trees do not
            matter. See `shim.files.places.mapped_files`.

    Raises:
        InvalidMessage: T's inventory is malformed.
    """
    mapped = frozenset(
        inode
        for device, inode in suspicious
        if os.major(device) << 32 | os.minor(device) == new.file_system
    )
    if old is None:
        return trees.difference(None, new, _all(new), mapped)
    forced = list(mapped | old.unsettled)
    try:
        found = _native_tree.compare(
            old.records, new.records, forced, all_files=new.volatile or old.foreign
        )
    except NativeError as error:
        raise InvalidMessage(f"the inventory of a tree: {error.what}") from error
    differing: list[Pair] = [
        (
            trees.entry_at(old.records, left) if left >= 0 else None,
            trees.entry_at(new.records, right) if right >= 0 else None,
        )
        for left, right in found
    ]
    return trees.difference(old, new, differing, mapped)


def _all(new: Snapshot) -> list[Pair]:
    return [(None, entry) for entry in new]


def require_whole(entry: Entry) -> None:
    """Refuses a directory whose content the overlay takes from elsewhere.

    Raises:
        MissingFeature: it is such a directory.
    """
    if entry.flags & REDIRECT:
        raise MissingFeature(
            "the overlay redirects this directory, so its upper directory is not complete",
            where=os.fsdecode(entry.path),
            remedy="mount overlays with redirect_dir=off,metacopy=off",
        )


def digest(root: Path, exclude: frozenset[bytes] = frozenset()) -> str:
    """A hash over everything in a tree: names, attributes, content, which names are one file.

    It reads every file, and sees a merged overlay as its container does.
    """
    tree = Tree(root, exclude=exclude)
    scanned = tree.scan()
    first_name: dict[int, bytes] = {}
    result = hashlib.sha256()
    with Confined(root) as place:
        for entry in scanned:
            first = first_name.setdefault(entry.inode, entry.path)
            same_as = first if entry.is_linked else b""
            head = trees.packed(replace(entry, inode=0, ctime=(0, 0)))
            result.update(b"%d:%s%d:%s" % (len(head), head, len(same_as), same_as))
            for name, value in _xattrs(place, entry):
                result.update(b"%d:%s%d:%s" % (len(name), name, len(value), value))
            _update_with_content(result, place, entry)
    return result.hexdigest()


def _xattrs(place: Confined, entry: Entry) -> tuple[tuple[bytes, bytes], ...]:
    if entry.path == b"":
        return attributes.xattrs_of(place.root_fd, b"")
    parent, name = place.parent(entry.path)
    return attributes.xattrs_of(attributes.reach(parent, name), entry.path)


def _update_with_content(result: hashlib._Hash, place: Confined, entry: Entry) -> None:
    if entry.is_file:
        reader = BlockReader(0)
        with place.opened(entry.path, os.O_RDONLY) as fd:
            for offset, length in windows(fd, entry.size):
                got = reader.read(fd, offset, length)
                for at in range(0, got, BLOCK_BYTES):
                    block = reader.data[at : min(at + BLOCK_BYTES, got)]
                    place_of = at // BLOCK_BYTES * HASH_BYTES
                    if reader.hashes[place_of : place_of + HASH_BYTES] != ZERO:
                        result.update(b"%d:" % (offset + at))
                        result.update(block)
    elif stat.S_ISLNK(entry.mode):
        parent, name = place.parent(entry.path)
        result.update(os.fsencode(os.readlink(name, dir_fd=parent)))


def is_tmpfs(root: Path) -> bool:
    """Whether a directory lies on a tmpfs.

    Raises:
        NotFound: it does not exist.
    """
    try:
        device = root.stat().st_dev
    except OSError as error:
        raise NotFound(f"no directory: {error.strerror}", where=str(root)) from error
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape").splitlines():
        fields, _, right = line.partition(" - ")
        if fields.split(" ")[2] == wanted:
            return right.split(" ")[0] in (_TMPFS, "ramfs")
    return False
