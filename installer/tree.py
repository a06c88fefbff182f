# SPDX-License-Identifier: Apache-2.0
"""What the planner may see of a node's files: reading only, by the paths the node itself uses.

Paths are absolute strings as the node writes them; where the node's root directory really is
(``--root``) is known here and in ``disk`` only.
"""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from shim.errors import InstallRefused

MAX_LINKS = 40  # as the kernel's own limit (path_resolution(7))
MAX_FILE_BYTES = 4 * 1024 * 1024  # far above any configuration file


class Tree(Protocol):
    """A node's files."""

    def resolve(self, path: str) -> str:
        """Follows symbolic links as the node would; returns ``path`` itself if nothing is there."""

    def read(self, path: str) -> bytes | None:
        """The content of a regular file, None if there is none."""

    def names(self, path: str) -> tuple[str, ...] | None:
        """The entries of a directory in the order of their names, None if it is none."""


@contextlib.contextmanager
def _readable(path: str) -> Iterator[None]:
    """Says what to do where we may not look."""
    try:
        yield
    except PermissionError as error:
        raise InstallRefused("may not be read", where=path, remedy="run as root") from error


@dataclass(frozen=True)
class RootTree:
    """The files under a directory that is, was, or will be a node's root.

    Attributes:
        root: that directory; "/" for the machine we run on.
    """

    root: Path

    def on_disk(self, path: str) -> Path:
        """Where a node's path lies here, links not followed."""
        return self.root / path.lstrip("/")

    def resolve(self, path: str) -> str:
        """Follows links; absolute ones start again at the root, as they would after chroot."""
        done: list[str] = []
        rest = [part for part in path.split("/") if part not in ("", ".")]
        links = 0
        while rest:
            part = rest.pop(0)
            if part == "..":
                done = done[:-1]
                continue
            here = self.on_disk("/".join([*done, part]))
            with _readable(path):
                is_link = here.is_symlink()
            if not is_link:
                done.append(part)
                continue
            links += 1
            if links > MAX_LINKS:
                raise InstallRefused("has too many symbolic links", where=path)
            target = str(here.readlink())
            if target.startswith("/"):
                done = []
            rest = [p for p in target.split("/") if p not in ("", ".")] + rest
        return "/" + "/".join(done)

    def read(self, path: str) -> bytes | None:
        """Reads a regular file; anything else in its place is refused rather than waited for."""
        file = self.on_disk(self.resolve(path))
        try:
            with _readable(path):
                status = file.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        if not stat.S_ISREG(status.st_mode):
            if stat.S_ISDIR(status.st_mode) or str(file) == "/dev/null":
                return None
            raise InstallRefused("is not a regular file", where=path)
        if status.st_size > MAX_FILE_BYTES:
            raise InstallRefused(f"is larger than {MAX_FILE_BYTES} bytes", where=path)
        with _readable(path):
            return file.read_bytes()

    def names(self, path: str) -> tuple[str, ...] | None:
        """Lists a directory."""
        try:
            with _readable(path):
                return tuple(sorted(e.name for e in self.on_disk(self.resolve(path)).iterdir()))
        except (FileNotFoundError, NotADirectoryError):
            return None


@dataclass(frozen=True)
class Overlay:
    """A tree as it would be after some writes; None stands for a removed file."""

    below: Tree
    changed: Mapping[str, bytes | None] = field(default_factory=dict)

    def resolve(self, path: str) -> str:
        """As below: writes go to the file behind a link and never make one."""
        return self.below.resolve(path)

    def read(self, path: str) -> bytes | None:
        """The changed content, or what is below."""
        target = self.resolve(path)
        return self.changed[target] if target in self.changed else self.below.read(target)

    def names(self, path: str) -> tuple[str, ...] | None:
        """The names below, with ours in and the removed ones out."""
        below = self.below.names(path)
        found = set(below or ())
        prefix = self.resolve(path).rstrip("/") + "/"
        for file, content in self.changed.items():
            name, slash, _ = file.removeprefix(prefix).partition("/")
            if not file.startswith(prefix) or (slash and content is None):
                continue
            if content is None:
                found.discard(name)
            else:
                found.add(name)
        return tuple(sorted(found)) if found or below is not None else None


@dataclass(frozen=True)
class MemoryTree:
    """A tree made of a mapping, without links: what tests and dry thoughts use."""

    files: Mapping[str, bytes]

    def resolve(self, path: str) -> str:
        """No links here."""
        return path

    def read(self, path: str) -> bytes | None:
        """The content given for this path."""
        return self.files.get(path)

    def names(self, path: str) -> tuple[str, ...] | None:
        """Every first component under this path."""
        prefix = path.rstrip("/") + "/"
        found = {
            f.removeprefix(prefix).partition("/")[0] for f in self.files if f.startswith(prefix)
        }
        return tuple(sorted(found)) or None


def same_socket(one: str | None, other: str | None) -> bool:
    """Whether two endpoints mean one unix socket (``/var/run`` is a link to ``/run``)."""
    return one is not None and other is not None and socket_path(one) == socket_path(other)


def socket_path(endpoint: str) -> str | None:
    """The path in a CRI endpoint, None if it is no unix socket.

    Kubelet wants a URL; it still takes a bare path, so we read both.
    """
    path = endpoint.removeprefix("unix://")
    if not path.startswith("/"):
        return None
    path = "/" + path.lstrip("/")
    return path.removeprefix("/var") if path.startswith("/var/run/") else path
