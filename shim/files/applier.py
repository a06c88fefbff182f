# SPDX-License-Identifier: Apache-2.0
"""Applies frames to a tree at T, where they are hostile input until they have been applied.

Steps are idempotent, and an inventory is compared by content: whatever a crash leaves, the next
round completes. Nothing is durable before the node writes it back: a copy that has outlived its
node is dropped.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from shim import _native_tree
from shim.core import tree_frames
from shim.core.tree_frames import (
    FRESH,
    NUMBER,
    OFFSET,
    RANGE,
    REPLACE,
    STASHED,
    TORN,
    Attributes,
    Operation,
    Record,
    check_path,
    fixed,
    read_attributes,
    shown,
)
from shim.core.trees import order
from shim.errors import InvalidMessage, NativeError, PodferryError, Refused
from shim.files import attributes, nodes
from shim.files.confined import Confined, remove_in
from shim.files.reading import summary_of
from shim.files.tree import Summary

SIZE_MAX = (1 << 63) - 1
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)

# Records come in this order; within a group paths ascend, so that none comes twice.
_GROUP = {
    Operation.BEGIN: 0,
    Operation.STASH: 1,
    Operation.REMOVE: 2,
    Operation.DIRECTORY: 3,
    Operation.FILE: 3,
    Operation.SYMLINK: 3,
    Operation.NODE: 3,
    Operation.LINK: 4,
    Operation.FINISH: 5,
}


@dataclass(frozen=True, slots=True)
class Limits:
    """What a stream may do to this node.

    Attributes:
        quota_bytes: how much content it may write.
        quota_entries: how many entries it may name, and S's tree may have.
        devices: whether it may make device nodes: the pod may make them itself (CAP_MKNOD).
        ids: the lowest and the highest owner and group; None for any: the pod has no user
            namespace of its own.
    """

    quota_bytes: int
    quota_entries: int
    devices: bool = False
    ids: tuple[int, int] | None = None


@dataclass(slots=True)
class _Writing:
    """The file that DATA is for."""

    path: bytes
    fd: int
    size_bytes: int


class Applier:
    """Brings a tree up to date, frame by frame; a context manager that closes what it has open.

    Args:
        root: a volume, or the merged root of a container that does not run yet.
        quota_bytes: how much content may be written.
        quota_entries: how many entries may be named.
        devices: see `Limits`.
        ids: see `Limits`.

    Raises:
        NotFound: there is no such directory.
    """

    def __init__(
        self,
        root: Path,
        quota_bytes: int,
        quota_entries: int,
        *,
        devices: bool = False,
        ids: tuple[int, int] | None = None,
    ) -> None:
        self._limits = Limits(quota_bytes, quota_entries, devices, ids)
        self._place = Confined(root)
        self._where = str(root)
        self._group = -1
        self._last = b""
        self._entries = 0
        self._written_bytes = 0
        self._stashes: set[int] = set()
        self._writing: _Writing | None = None
        self._times: dict[bytes, tuple[int, int]] = {}
        self._finished: Summary | None = None
        self._failed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Lets go; what was applied stays."""
        if self._writing is not None:
            os.close(self._writing.fd)
            self._writing = None
        self._place.close()

    def feed(self, frame: bytes) -> None:
        """Applies one frame. After an error the applier is of no use; the tree can be completed.

        Raises:
            InvalidMessage: the frame is malformed, out of order or leads out of the tree.
            Refused: it would exceed a quota, or make what must not be made here.
            PodferryError: the file system refuses; it names the path.
        """
        if self._failed:
            raise Refused("this stream has failed before", where=self._where)
        try:
            for record in tree_frames.records(frame):
                self._take(record)
        except (PodferryError, OSError, ValueError, OverflowError) as error:
            self._failed = True
            if isinstance(error, OSError):
                raise PodferryError(
                    f"the file system refuses: {error.strerror}",
                    where=f"{self._where}/{shown(self._last)}",
                ) from error
            if isinstance(error, PodferryError):
                raise
            raise InvalidMessage(f"a record has an impossible value: {error}") from error

    def finish(self) -> Summary:
        """Ends the round; returns what S says of its tree, to compare with `Tree.summary`.

        Raises:
            InvalidMessage: the stream is not complete.
        """
        self.close()
        if self._finished is None or self._failed:
            raise InvalidMessage(
                "the stream ended early", where=self._where, remedy="start from T's inventory"
            )
        return self._finished

    # ---- order and quota

    def _take(self, record: Record) -> None:
        operation = record.operation
        if operation in (Operation.DATA, Operation.HOLE, Operation.END):
            self._take_content(record)
            return
        self._require_order(record)
        if operation is Operation.BEGIN:
            (entries,) = fixed(OFFSET, record.body)
            if entries > self._limits.quota_entries:
                raise Refused(f"the tree has {entries} entries", where=self._where,
                              remedy="raise the quota or make the tree smaller")  # fmt: skip
        elif operation is Operation.STASH:
            self._stash(record)
        elif operation is Operation.REMOVE:
            self._remove(record)
        elif operation is Operation.DIRECTORY:
            self._directory(record)
        elif operation is Operation.FILE:
            self._file(record)
        elif operation is Operation.LINK:
            self._link(record)
        elif operation is Operation.FINISH:
            self._finish(record)
        else:
            self._node(record)
        if operation in (Operation.FILE, Operation.SYMLINK, Operation.NODE, Operation.LINK):
            self._times.pop(record.path, None)  # it may have been a directory

    def _require_order(self, record: Record) -> None:
        if self._writing is not None:
            raise InvalidMessage("a file is not ended", where=shown(self._writing.path))
        group = _GROUP[record.operation]
        if self._finished is not None or (self._group < 0) != (group == 0):
            raise InvalidMessage("a stream begins once, and ends with its end")
        has_path = group in (1, 2, 3, 4)
        is_root = record.operation is Operation.DIRECTORY and record.path == b""
        if has_path and not is_root:
            check_path(record.path)
        elif record.path:
            raise InvalidMessage("a path where none belongs", where=shown(record.path))
        if group < self._group:
            raise InvalidMessage("records are out of order", where=shown(record.path))
        # Stashes are in the order of their numbers; all others ascend.
        is_late = group == self._group and order(record.path) <= order(self._last)
        if is_late and group in (2, 3, 4):
            raise InvalidMessage("a path comes twice, or too late", where=shown(record.path))
        self._group, self._last = group, record.path
        self._entries += has_path
        # Everything may go and everything may come.
        if self._entries > 2 * self._limits.quota_entries:
            raise Refused(f"more than {self._limits.quota_entries} entries", where=self._where)

    def _check(self, wanted: Attributes, path: bytes, kind: int) -> None:
        if stat.S_IFMT(wanted.mode) != kind:
            raise InvalidMessage("its mode says another kind", where=shown(path))
        ids = self._limits.ids
        if ids and not all(ids[0] <= one <= ids[1] for one in (wanted.uid, wanted.gid)):
            raise Refused(
                f"owner {wanted.uid}:{wanted.gid} is outside of the pod's user namespace",
                where=shown(path),
            )
        for name, _ in wanted.xattrs:
            if not attributes.may_travel(name) or b"\0" in name:
                raise Refused(f"the attribute {shown(name)} must not be set", where=shown(path))

    # ---- what happens

    def _parent(self, path: bytes) -> tuple[int, bytes]:
        """The directory in which an entry is about to change; its time is put back at the end."""
        parent, name = self._place.parent(path)
        self._remember(path.rpartition(b"/")[0], parent)
        return parent, name

    def _remember(self, path: bytes, directory: int) -> None:
        if path not in self._times:
            self._times[path] = divmod(os.fstat(directory).st_mtime_ns, 1_000_000_000)

    def _remove(self, record: Record) -> None:
        try:
            self._parent(record.path)
        except OSError as error:
            if error.errno not in _NOT_THERE:
                raise
            return
        self._place.remove(record.path)

    def _stash(self, record: Record) -> None:
        (number,) = fixed(NUMBER, record.body)
        if number != len(self._stashes):
            raise InvalidMessage("stashes are out of order", where=shown(record.path))
        parent, name = self._parent(record.path)
        if not stat.S_ISREG(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            raise InvalidMessage("no regular file", where=shown(record.path))
        self._remember(b"", self._place.root_fd)
        remove_in(self._place.root_fd, nodes.stash_name(number))
        os.rename(name, nodes.stash_name(number),
                  src_dir_fd=parent, dst_dir_fd=self._place.root_fd)  # fmt: skip
        self._stashes.add(number)

    def _directory(self, record: Record) -> None:
        wanted, rest = read_attributes(record.body)
        self._check(wanted, record.path, stat.S_IFDIR)
        if rest:
            raise InvalidMessage("too long", where=shown(record.path))
        if record.path == b"":
            attributes.apply(self._place.root_fd, wanted)
        else:
            parent, name = self._parent(record.path)
            if record.flags & REPLACE:
                remove_in(parent, name)
            nodes.make_directory(parent, name, wanted)
        self._times[record.path] = wanted.mtime

    def _file(self, record: Record) -> None:
        is_stashed = bool(record.flags & STASHED)
        body = record.body
        (size,) = fixed(OFFSET, body[: OFFSET.size])
        if size > SIZE_MAX:
            raise InvalidMessage("no file is so large", where=shown(record.path))
        parent, name = self._parent(record.path)
        if is_stashed:
            (number,) = fixed(NUMBER, body[OFFSET.size :])
            if number not in self._stashes:
                raise InvalidMessage("nothing is in this stash", where=shown(record.path))
            self._stashes.remove(number)
            remove_in(parent, name)
            os.rename(nodes.stash_name(number), name,
                      src_dir_fd=self._place.root_fd, dst_dir_fd=parent)  # fmt: skip
        if record.flags & FRESH:
            fd = nodes.create_file(parent, name)
        else:
            with self._place.opened(record.path, os.O_RDWR) as found:
                fd = os.dup(found)
        self._writing = _Writing(record.path, fd, size)
        os.ftruncate(fd, size)

    def _take_content(self, record: Record) -> None:
        writing = self._writing
        if writing is None:
            raise InvalidMessage("content without a file")
        if record.operation is Operation.END:
            self._end(writing, record)
            return
        if record.path:
            raise InvalidMessage("a path where none belongs", where=shown(record.path))
        if record.operation is Operation.HOLE:
            offset, length = fixed(RANGE, record.body)
            if not 0 < length <= SIZE_MAX or offset > SIZE_MAX - length:
                raise InvalidMessage("an impossible hole", where=shown(writing.path))
            self._punch(writing, offset, length)
            return
        (offset,) = fixed(OFFSET, record.body[: OFFSET.size])
        data = record.body[OFFSET.size :]
        if offset + len(data) > writing.size_bytes:
            raise InvalidMessage("content behind the file's end", where=shown(writing.path))
        self._written_bytes += len(data)
        if self._written_bytes > self._limits.quota_bytes:
            raise Refused(
                f"more than {self._limits.quota_bytes} bytes of content",
                where=shown(writing.path),
                remedy="raise the quota or make the tree smaller",
            )
        while data:
            done = os.pwrite(writing.fd, data, offset)
            data, offset = data[done:], offset + done

    def _punch(self, writing: _Writing, offset: int, length: int) -> None:
        # What is behind the end was cut off when the file was opened.
        length = min(length, writing.size_bytes - offset)
        if length > 0:
            try:
                _native_tree.punch(writing.fd, offset, length)
            except NativeError as error:
                raise OSError(error.errno_value, error.what) from error

    def _end(self, writing: _Writing, record: Record) -> None:
        if record.path != writing.path:
            raise InvalidMessage("the end of another file", where=shown(record.path))
        wanted, rest = read_attributes(record.body)
        self._check(wanted, record.path, stat.S_IFREG)
        if rest:
            raise InvalidMessage("too long", where=shown(record.path))
        attributes.apply(writing.fd, wanted)
        if not record.flags & TORN:
            attributes.set_time(writing.fd, wanted.mtime)
        os.close(writing.fd)
        self._writing = None

    def _node(self, record: Record) -> None:
        wanted, rest = read_attributes(record.body)
        self._check(wanted, record.path, stat.S_IFMT(wanted.mode))
        parent, name = self._parent(record.path)
        if record.operation is Operation.SYMLINK:
            nodes.make_link(parent, name, wanted, bytes(rest), record.path)
        else:
            (device,) = fixed(OFFSET, rest)
            nodes.make_node(parent, name, wanted, device, self._limits.devices, record.path)

    def _link(self, record: Record) -> None:
        target = check_path(bytes(record.body))
        source = self._place.parent(target)
        # The chain of open directories serves one path at a time.
        kept = os.dup(source[0])
        try:
            parent, name = self._parent(record.path)
            nodes.link(kept, source[1], parent, name, record.path)
        finally:
            os.close(kept)

    def _finish(self, record: Record) -> None:
        for number in self._stashes:  # what moved was gone before S could read it
            remove_in(self._place.root_fd, nodes.stash_name(number))
        said = summary_of(record.body)
        for path, mtime in self._times.items():
            if path == b"":
                attributes.set_time(self._place.root_fd, mtime)
                continue
            try:
                parent, name = self._place.parent(path)
                attributes.set_time_of_name(parent, name, mtime)
            except OSError as error:
                if error.errno not in _NOT_THERE:  # it went, after something in it had gone
                    raise
        self._finished = said
