# SPDX-License-Identifier: Apache-2.0
"""Walks below a root directory step by step: through no link, into no other file system."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from shim.core.tree_frames import shown
from shim.errors import InvalidMessage, NotFound

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Confined:
    """A root directory, and the directories below it that were opened last.

    Args:
        root: the directory; it may itself be reached by links.

    Raises:
        NotFound: there is no such directory.
    """

    def __init__(self, root: Path) -> None:
        try:
            self.root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise NotFound(f"no directory: {error.strerror}", where=str(root)) from error
        self._device = os.fstat(self.root_fd).st_dev
        self._chain: list[tuple[bytes, int]] = []

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
        """Closes what is open. A second call does nothing."""
        self.forget()
        root, self.root_fd = self.root_fd, -1
        if root >= 0:
            os.close(root)

    def forget(self, depth: int = 0) -> None:
        """Closes the directories below a depth: their names may mean others now."""
        while len(self._chain) > depth:
            os.close(self._chain.pop()[1])

    def parent(self, path: bytes) -> tuple[int, bytes]:
        """The directory that holds a path, valid until the next call, and the path's last name.

        Args:
            path: a checked path below the root, not the root itself.

        Raises:
            OSError: ENOENT, ENOTDIR or ELOOP: a directory on the way is missing, or is none.
        """
        *directories, name = path.split(b"/")
        same = 0
        for (known, _), wanted in zip(self._chain, directories, strict=False):
            if known != wanted:
                break
            same += 1
        self.forget(same)
        for wanted in directories[same:]:
            above = self._chain[-1][1] if self._chain else self.root_fd
            self._chain.append((wanted, self._enter(above, wanted)))
        return (self._chain[-1][1] if self._chain else self.root_fd), name

    def _enter(self, above: int, name: bytes) -> int:
        found = os.open(name, _DIRECTORY, dir_fd=above)
        if os.fstat(found).st_dev != self._device:
            os.close(found)
            raise OSError(errno.EXDEV, "is on another file system", os.fsdecode(name))
        return found

    @contextmanager
    def opened(self, path: bytes, flags: int) -> Iterator[int]:
        """A regular file, opened without touching what else may be there.

        Raises:
            OSError: it is missing or cannot be opened.
            InvalidMessage: it is no regular file.
        """
        parent, name = self.parent(path)
        place = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            if not is_regular(place):
                raise InvalidMessage("no regular file", where=shown(path))
            # Opened again by its inode: nobody can put a device or a fifo in its place.
            file = os.open(f"/proc/self/fd/{place}", flags | os.O_CLOEXEC)
        finally:
            os.close(place)
        try:
            yield file
        finally:
            os.close(file)

    def remove(self, path: bytes) -> None:
        """Removes an entry and what is below it; nothing happens if it is not there.

        Raises:
            OSError: a directory on the way is missing, or something cannot be removed.
        """
        parent, name = self.parent(path)
        remove_in(parent, name)


def is_regular(fd: int) -> bool:
    """Whether a descriptor is of a regular file."""
    return os.fstat(fd).st_mode & 0o170000 == 0o100000


def remove_in(parent: int, name: bytes) -> None:
    """Removes an entry of a directory and what is below it, if it is there."""
    try:
        os.unlink(name, dir_fd=parent)
        return
    except FileNotFoundError:
        return
    except IsADirectoryError:
        pass
    stack: list[tuple[int, bytes]] = []
    try:
        stack.append((os.open(name, _DIRECTORY, dir_fd=parent), name))
        while stack:
            directory, own = stack[-1]
            below = _unlink_files(directory)
            if below is not None:
                stack.append((os.open(below, _DIRECTORY, dir_fd=directory), below))
                continue
            stack.pop()
            os.close(directory)
            os.rmdir(own, dir_fd=stack[-1][0] if stack else parent)
    finally:
        for directory, _ in stack:
            os.close(directory)


def _unlink_files(directory: int) -> bytes | None:
    """Removes what is no directory; returns the name of a directory, if there is one."""
    for name in os.listdir(directory):
        raw = os.fsencode(name)
        try:
            os.unlink(raw, dir_fd=directory)
        except IsADirectoryError:
            return raw
        except FileNotFoundError:
            continue
    return None
