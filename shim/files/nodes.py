# SPDX-License-Identifier: Apache-2.0
"""Makes what is no regular file: directories, links, fifos, sockets, devices, further names."""

from __future__ import annotations

import os
import stat

from shim.core.tree_frames import PATH_BYTES_MAX, Attributes, shown
from shim.errors import InvalidMessage, Refused
from shim.files import attributes
from shim.files.confined import remove_in

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_PLAIN = (stat.S_IFIFO, stat.S_IFSOCK)
_DEVICES = (stat.S_IFCHR, stat.S_IFBLK)


def stash_name(number: int) -> bytes:
    """Where a file that moves waits, in the root of its tree."""
    return b".podferry-stash-%d" % number


def create_file(parent: int, name: bytes) -> int:
    """Makes an empty file in place of whatever is there, and opens it.

    Raises:
        OSError: the file system refuses.
    """
    try:
        return os.open(name, _CREATE, 0o600, dir_fd=parent)
    except FileExistsError:
        remove_in(parent, name)
        return os.open(name, _CREATE, 0o600, dir_fd=parent)


def make_directory(parent: int, name: bytes, wanted: Attributes) -> None:
    """Makes a directory, unless there is one, and gives it all but its time.

    Raises:
        OSError: the file system refuses.
    """
    try:
        os.mkdir(name, 0o700, dir_fd=parent)
    except FileExistsError:
        if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            remove_in(parent, name)
            os.mkdir(name, 0o700, dir_fd=parent)
    fd = os.open(name, _DIRECTORY, dir_fd=parent)
    try:
        attributes.apply(fd, wanted)
    finally:
        os.close(fd)


def make_link(parent: int, name: bytes, wanted: Attributes, target: bytes, path: bytes) -> None:
    """Makes a symbolic link, whose target is text: it is never followed here.

    Raises:
        InvalidMessage: it is none.
        OSError: the file system refuses.
    """
    if not stat.S_ISLNK(wanted.mode) or not 0 < len(target) <= PATH_BYTES_MAX or b"\0" in target:
        raise InvalidMessage("no symbolic link", where=shown(path))
    remove_in(parent, name)
    os.symlink(target, name, dir_fd=parent)
    attributes.apply_to_name(parent, name, wanted)


def make_node(
    parent: int, name: bytes, wanted: Attributes, device: int, devices: bool, path: bytes
) -> None:
    """Makes a fifo, the name of a socket, or a device node.

    Args:
        parent: the directory.
        name: the entry.
        wanted: its attributes.
        device: major << 32 | minor.
        devices: whether device nodes may be made.
        path: for errors.

    Raises:
        InvalidMessage: it is of another kind.
        Refused: device nodes are not allowed.
        OSError: the file system refuses.
    """
    kind = stat.S_IFMT(wanted.mode)
    if kind not in _PLAIN + _DEVICES or (kind in _PLAIN and device):
        raise InvalidMessage("no fifo, socket or device", where=shown(path))
    if kind in _DEVICES and not devices:
        raise Refused(
            "a device node, which this pod may not make",
            where=shown(path),
            remedy="remove it, or give the container CAP_MKNOD",
        )
    if kind == stat.S_IFCHR and device == 0:
        raise Refused("a device with number 0 would be a whiteout", where=shown(path))
    if device >> 32 > 0xFFF or device & 0xFFFFFFFF > 0xFFFFF:
        raise InvalidMessage("no such device number", where=shown(path))
    remove_in(parent, name)
    number = os.makedev(device >> 32, device & 0xFFFFFFFF)
    os.mknod(name, kind | 0o600, number, dir_fd=parent)
    attributes.apply_to_name(parent, name, wanted)


def link(source: int, source_name: bytes, parent: int, name: bytes, path: bytes) -> None:
    """Gives an entry a further name, unless it has it.

    Raises:
        InvalidMessage: it is a directory.
        OSError: the file system refuses.
    """
    wanted = os.stat(source_name, dir_fd=source, follow_symlinks=False)
    if stat.S_ISDIR(wanted.st_mode):
        raise InvalidMessage("a further name of a directory", where=shown(path))
    try:
        there = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if (there.st_dev, there.st_ino) == (wanted.st_dev, wanted.st_ino):
            return
        remove_in(parent, name)
    except FileNotFoundError:
        pass
    os.link(source_name, name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
