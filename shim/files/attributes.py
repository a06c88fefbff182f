# SPDX-License-Identifier: Apache-2.0
"""Reads and sets what a file has beside its content: owner, mode, times, extended attributes."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shim.core.tree_frames import XATTR_BYTES_MAX, Attributes, shown
from shim.core.trees import Entry
from shim.errors import MissingFeature, Refused

_NANO = 1_000_000_000
# What says how an overlay is made belongs to that overlay alone; labels belong to the node.
_NOT_OURS = (b"trusted.overlay.", b"security.selinux", b"security.ima", b"security.evm",
             b"security.apparmor", b"security.SMACK")  # fmt: skip
_KINDS = (b"user.", b"trusted.", b"security.capability", b"system.posix_acl_")
_REDIRECTS = (b"trusted.overlay.redirect", b"trusted.overlay.metacopy")


def may_travel(name: bytes) -> bool:
    """Whether an extended attribute is part of what a pod sees of its files."""
    return name.startswith(_KINDS) and not name.startswith(_NOT_OURS)


def reach(parent: int, name: bytes) -> str:
    """A path to an entry of an open directory, for the calls that take no descriptor."""
    return f"/proc/self/fd/{parent}/{os.fsdecode(name)}"


@contextmanager
def pinned(parent: int, name: bytes, entry: Entry) -> Iterator[int]:
    """A descriptor of an entry as it was scanned, whatever takes its name meanwhile.

    Raises:
        OSError: it is gone, or another has its name.
    """
    place = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        seen = os.fstat(place)
        if seen.st_ino != entry.inode or stat.S_IFMT(seen.st_mode) != stat.S_IFMT(entry.mode):
            raise FileNotFoundError(errno.ENOENT, "another has its name")
        yield place
    finally:
        os.close(place)


def of_pinned(entry: Entry, place: int) -> Attributes:
    """As `of`, by a descriptor that was opened as a path only."""
    # Through the descriptor's link, which leads to the entry itself, a symbolic link too.
    xattrs = xattrs_of(f"/proc/self/fd/{place}", entry.path, follow=True)
    return Attributes(entry.mode, entry.uid, entry.gid, entry.mtime, xattrs)


def xattrs_of(
    place: int | str, path: bytes, *, follow: bool = False
) -> tuple[tuple[bytes, bytes], ...]:
    """Extended attributes that travel.

    Args:
        place: a descriptor, or a path.
        path: for the error.
        follow: whether the path's last name is followed.

    Raises:
        MissingFeature: the overlay keeps the entry's content elsewhere.
        Refused: they are larger than what travels.
        OSError: the entry is gone.
    """
    follow = follow or isinstance(place, int)
    try:
        names = [os.fsencode(one) for one in os.listxattr(place, follow_symlinks=follow)]
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EPERM):
            return ()
        raise
    found, total = [], 0
    for name in sorted(names):
        if name in _REDIRECTS:
            raise MissingFeature(
                f"the overlay uses {name.decode()}, so its upper directory is not complete",
                where=shown(path),
                remedy="mount overlays with redirect_dir=off,metacopy=off",
            )
        if may_travel(name):
            value = os.getxattr(place, name, follow_symlinks=follow)
            total += len(name) + len(value)
            found.append((name, value))
    if total > XATTR_BYTES_MAX:
        raise Refused(
            f"{total} bytes of extended attributes; {XATTR_BYTES_MAX} can travel",
            where=shown(path),
        )
    return tuple(found)


def of(entry: Entry, place: int) -> Attributes:
    """An entry's attributes as they were scanned, with its extended ones as they are now."""
    xattrs = xattrs_of(place, entry.path)
    return Attributes(entry.mode, entry.uid, entry.gid, entry.mtime, xattrs)


def apply(fd: int, wanted: Attributes) -> None:
    """Gives an open file or directory all but its time; a change of owner comes first.

    A change of owner clears set-user-id and capabilities, a write clears the latter.

    Raises:
        OSError: the file system refuses.
    """
    os.fchown(fd, wanted.uid, wanted.gid)
    _set_xattrs(fd, wanted)
    # After the access list, whose mask is the group's permission bits.
    os.fchmod(fd, stat.S_IMODE(wanted.mode))


def apply_to_name(parent: int, name: bytes, wanted: Attributes) -> None:
    """The same for what cannot be opened: a link, a fifo, a socket, a device.

    Raises:
        OSError: the file system refuses.
    """
    os.chown(name, wanted.uid, wanted.gid, dir_fd=parent, follow_symlinks=False)
    _set_xattrs(reach(parent, name), wanted)
    if not stat.S_ISLNK(wanted.mode):
        # Through an O_PATH descriptor: chmod of a name would follow a link put there meanwhile.
        place = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            Path(f"/proc/self/fd/{place}").chmod(stat.S_IMODE(wanted.mode))
        finally:
            os.close(place)
    set_time_of_name(parent, name, wanted.mtime)


def set_time(fd: int, mtime: tuple[int, int]) -> None:
    """Sets an open file's times."""
    moment = mtime[0] * _NANO + mtime[1]
    os.utime(fd, ns=(moment, moment))


def set_time_of_name(parent: int, name: bytes, mtime: tuple[int, int]) -> None:
    """Sets the times of an entry of an open directory, following no link."""
    moment = mtime[0] * _NANO + mtime[1]
    os.utime(name, ns=(moment, moment), dir_fd=parent, follow_symlinks=False)


def _set_xattrs(place: int | str, wanted: Attributes) -> None:
    follow = isinstance(place, int)
    values = dict(wanted.xattrs)
    for name, _ in xattrs_of(place, b""):
        if name not in values:
            os.removexattr(place, name, follow_symlinks=follow)
    for name, value in wanted.xattrs:
        os.setxattr(place, name, value, follow_symlinks=follow)
