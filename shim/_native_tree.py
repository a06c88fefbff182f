# SPDX-License-Identifier: Apache-2.0
"""The C library's trees of files: the walk, the comparison, reading by blocks (shim.core.trees)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from shim._native import binding, call

WINDOW_BYTES = 512 << 10


@dataclass(frozen=True, slots=True)
class Scanned:
    """What a walk saw.

    Attributes:
        records: in the form of shim.core.trees.
        entries: how many.
        file_system: the root's device: major << 32 | minor.
        vanished: how many entries went away while they were looked at.
    """

    records: bytes
    entries: int
    file_system: int
    vanished: int


def scan(
    root_fd: int,
    *,
    overlay: bool,
    exclude: Iterable[bytes],
    entries_max: int,
    old: bytes | None = None,
    settled_before_ns: int = 0,
) -> Scanned:
    """Walks a tree, metadata only.

    Args:
        root_fd: its root.
        overlay: whether it is the upper directory of an overlay.
        exclude: paths that are left out with what is below them.
        entries_max: how many entries there may be.
        old: records of an earlier scan; what is in a directory whose times are as they were is
            taken over from there.
        settled_before_ns: by the wall clock: what has changed later is not taken over.

    Raises:
        NativeError: E2BIG, there are too many entries; ENAMETOOLONG, it is too deep; or a call
            failed.
    """
    ffi, lib = binding()
    out: Any = ffi.new("struct pf_tree_scan *")
    left_out = b"".join(path + b"\0" for path in exclude)
    flags = lib.PF_TREE_OVERLAY if overlay else 0
    before, size = (ffi.NULL, 0) if old is None else (old, len(old))
    call(
        lib.pf_tree_scan,
        root_fd,
        flags,
        left_out,
        len(left_out),
        entries_max,
        before,
        size,
        settled_before_ns,
        out,
    )
    try:
        records = bytes(ffi.buffer(out.records, out.bytes))
        return Scanned(records, int(out.entries), int(out.file_system), int(out.vanished))
    finally:
        lib.pf_tree_scan_free(out)


def compare(
    old: bytes, new: bytes, inodes: Sequence[int], *, all_files: bool
) -> list[tuple[int, int]]:
    """The offsets of the records that differ, or whose inode is given; -1 where there is none.

    Args:
        old: records.
        new: records.
        inodes: regular files that count as changed.
        all_files: whether all regular files count as changed.

    Raises:
        NativeError: EINVAL, the records are malformed or out of order.
    """
    ffi, lib = binding()
    out: Any = ffi.new("struct pf_tree_pairs *")
    listed = ffi.new("uint64_t[]", sorted(inodes))
    flags = lib.PF_TREE_ALL_FILES if all_files else 0
    call(lib.pf_tree_compare, old, len(old), new, len(new), flags, listed, len(inodes), out)
    try:
        return [
            (int(out.pairs[at].old_at), int(out.pairs[at].new_at)) for at in range(int(out.count))
        ]
    finally:
        lib.pf_tree_pairs_free(out)


def summary(records: bytes) -> tuple[int, int]:
    """A sum over what both ends of a transfer see alike.

    Raises:
        NativeError: EINVAL, the records are malformed or out of order.
    """
    ffi, lib = binding()
    out: Any = ffi.new("uint64_t[2]")
    call(lib.pf_tree_summary, records, len(records), out)
    return int(out[0]), int(out[1])


class BlockReader:
    """Reads files window by window into a buffer of its own, and hashes their blocks.

    Args:
        seed: of the hashes, a secret of the transfer: who can write into a pod's files cannot make
            two blocks that look alike.
    """

    def __init__(self, seed: int) -> None:
        ffi, lib = binding()
        self._read = lib.pf_tree_read_blocks
        self._seed = seed
        self._buffer: Any = ffi.new("uint8_t[]", WINDOW_BYTES)
        self._hashes: Any = ffi.new("uint64_t[]", WINDOW_BYTES // lib.PF_TREE_BLOCK_BYTES)
        self.data = memoryview(ffi.buffer(self._buffer))
        self.hashes = memoryview(ffi.buffer(self._hashes))

    def read(self, fd: int, offset: int, size_bytes: int) -> int:
        """Fills ``data`` and ``hashes`` (8 bytes each); returns the bytes read.

        Raises:
            NativeError: the file cannot be read.
        """
        return call(
            self._read,
            fd,
            offset,
            self._buffer,
            min(size_bytes, WINDOW_BYTES),
            self._seed,
            self._hashes,
        )


def punch(fd: int, offset: int, size_bytes: int) -> None:
    """Makes a hole in a file.

    Raises:
        NativeError: it cannot be made.
    """
    call(binding()[1].pf_tree_punch, fd, offset, size_bytes)
