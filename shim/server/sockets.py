# SPDX-License-Identifier: Apache-2.0
"""Unix sockets that appear whole: bound in private, given owner and mode, then put into place.

grpcio binds with the process's umask, removes whatever stands at the path before, and removes the
path again when it stops, even if a successor has bound it since. So it only ever sees a private
name; the public name is a second hard link, renamed into place. Renaming keeps the bound inode,
and the private link lets a process put its socket back if a successor dies half-way.
"""

from __future__ import annotations

import contextlib
import enum
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shim.errors import InvalidInput, Refused, SocketInUse

LONGEST_PATH_BYTES = 107
"""sun_path of unix(7) without its terminating zero byte."""

PROBE_TIMEOUT_S = 1.0


@dataclass(frozen=True, slots=True)
class Ownership:
    """Who may open a socket."""

    uid: int
    gid: int
    mode: int


ONLY_US = Ownership(os.getuid(), os.getgid(), 0o600)


def ownership_of(path: Path) -> Ownership | None:
    """Owner, group and mode of a socket; None while there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return Ownership(found.st_uid, found.st_gid, found.st_mode & 0o777)


class Listener(enum.Enum):
    """What stands at a socket path."""

    ABSENT = "absent"
    STALE = "stale"
    ALIVE = "alive"


def probe(path: Path) -> tuple[Listener, int]:
    """Finds out whether anybody listens at a path, and who: (what stands there, pid or 0)."""
    try:
        os.lstat(path)
    except OSError:
        return Listener.ABSENT, 0
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(PROBE_TIMEOUT_S)
        try:
            client.connect(str(path))
        except (TimeoutError, BlockingIOError):
            return Listener.ALIVE, 0  # its backlog is full: busy, not dead
        except OSError:
            return Listener.STALE, 0
        peer = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return Listener.ALIVE, int(struct.unpack("3i", peer)[0])


class PublicSocket:
    """One socket of this process under a public name.

    Args:
        public: the path clients use.
    """

    def __init__(self, public: Path) -> None:
        self.public = public
        self._directory = public.parent / "private"
        self._private = self._directory / f"{public.name}.{os.getpid()}"
        self._next = self._directory / f"{public.name}.{os.getpid()}.next"
        longest = len(os.fsencode(self._next))
        if longest > LONGEST_PATH_BYTES:
            raise InvalidInput(
                f"path is too long for a unix socket by {longest - LONGEST_PATH_BYTES} bytes",
                where=str(public),
                remedy="choose a shorter directory",
            )

    @property
    def address(self) -> str:
        """What gRPC is to bind."""
        return f"unix:{self._private}"

    def prepare(self) -> None:
        """Makes the directories and removes what dead processes left in the private one.

        Raises:
            Refused: the directories cannot be made here.
        """
        try:
            self.public.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            self._directory.mkdir(mode=0o700, exist_ok=True)
            self._directory.chmod(0o700)
        except OSError as error:
            raise Refused(
                f"cannot make the socket's directories: {error.strerror}",
                where=str(error.filename or self._directory),
                remedy="run the service as root, or set cri.listen and service.run_dir elsewhere",
            ) from error
        for left in self._directory.glob(f"{self.public.name}.*"):
            if probe(left)[0] is Listener.STALE and left.suffix != ".lock":
                left.unlink(missing_ok=True)

    @contextlib.contextmanager
    def claim(self, *, from_pid: int = 0) -> Iterator[None]:
        """Holds the right to publish, so that of two processes that start at once one gives up.

        Args:
            from_pid: the process that agreed to hand its socket over, 0 for none.

        Raises:
            SocketInUse: another living process serves the public path.
        """
        with self._locked():
            state, pid = probe(self.public)
            if state is Listener.ALIVE and pid not in (from_pid or os.getpid(), os.getpid()):
                raise SocketInUse(
                    f"a living process (pid {pid or 'unknown'}) serves this socket",
                    where=str(self.public),
                    remedy="`podferry handover` replaces a running podferry without losing a call;"
                    " any other process must be stopped first",
                )
            yield

    def publish(self, ownership: Ownership) -> None:
        """Puts the socket in place, with its owner and mode set before anybody can see it."""
        if self.is_in_place():
            self.follow(ownership)  # renaming a link onto another of the same inode does nothing
            return
        self._private.chmod(ownership.mode)
        os.chown(self._private, ownership.uid, ownership.gid)
        self._next.unlink(missing_ok=True)
        os.link(self._private, self._next)
        self._next.rename(self.public)

    def is_bound(self) -> bool:
        """Whether the private name is there; gRPC removes it when it stops listening."""
        return os.path.lexists(self._private)

    def is_in_place(self) -> bool:
        """Whether the public path is this process's socket."""
        try:
            return self.public.lstat().st_ino == self._private.lstat().st_ino
        except OSError:
            return False

    def follow(self, ownership: Ownership) -> None:
        """Changes owner and mode of the socket in place, in an order that never opens it wider."""
        if ownership_of(self._private) in (None, ownership):
            return
        narrow = self._private.stat().st_mode & ownership.mode & 0o777
        self._private.chmod(narrow)
        os.chown(self._private, ownership.uid, ownership.gid)
        self._private.chmod(ownership.mode)

    def withdraw(self) -> None:
        """Removes the public path if it still is ours, and the private one."""
        if self.is_in_place():
            with self._locked():  # a successor may be about to rename its own onto it
                if self.is_in_place():
                    self.public.unlink(missing_ok=True)
        self._private.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with (self._directory / f"{self.public.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
