# SPDX-License-Identifier: Apache-2.0
"""Changes files under a node's root, each by one rename that is on disk before the next step.

Every change is announced to ``before`` first; tests raise there to play a crash at each point.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from shim.errors import InstallRefused, Refused
from shim.installer.content import INSTALL_DIR, STATE_DIR
from shim.installer.manifest import BACKUP_DIR, Original, backup_path, digest
from shim.installer.manifest import PATH as MANIFEST_PATH
from shim.installer.tree import RootTree

NEW_SUFFIX = ".podferry-new"


def _ignore(what: str) -> None:
    """The default of ``before``."""


class Disk:
    """The files under one root.

    Args:
        root: the node's root directory.
        before: called with a word on each change, before it is made.
    """

    def __init__(self, root: Path, before: Callable[[str], None] = _ignore) -> None:
        self.tree = RootTree(root)
        self._before = before

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other installers out; makes the directory of the journal.

        Raises:
            InstallRefused: the disk cannot be written.
            Refused: another install or uninstall is running.
        """
        directory = self.tree.on_disk(self.tree.resolve(INSTALL_DIR))
        try:
            directory.parent.parent.mkdir(parents=True, exist_ok=True)
            directory.parent.mkdir(mode=0o700, exist_ok=True)
            directory.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise InstallRefused(
                f"cannot be made: {error.strerror}",
                where=INSTALL_DIR,
                remedy="run as root on a writable disk",
            ) from error
        lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError as error:
            raise Refused(
                "another install or uninstall is running", remedy="wait until it is done"
            ) from error
        finally:
            os.close(lock)
            with contextlib.suppress(OSError):  # not empty: something is installed
                directory.rmdir()
                directory.parent.rmdir()

    def check_writable(self, paths: Iterable[str]) -> None:
        """Refuses file systems that are mounted read-only before anything is changed.

        Raises:
            InstallRefused: naming the file that could not be written.
        """
        for path in paths:
            place = self._file(path).parent
            while not place.exists():
                place = place.parent
            if os.statvfs(place).f_flag & os.ST_RDONLY:
                raise InstallRefused(
                    "lies on a read-only file system", where=path, remedy="mount it writable"
                )

    def original(self, path: str, base: bytes) -> Original:
        """What to remember of a file beside its bytes."""
        status = self._file(path).stat()
        mode = stat.S_IMODE(status.st_mode)
        return Original(digest(base), mode, status.st_uid, status.st_gid, status.st_mtime_ns)

    def missing_dirs(self, paths: Iterable[str]) -> list[str]:
        """The directories that have to be made for these files, outermost first."""
        missing: set[str] = set()
        for path in paths:
            parent = Path(self.tree.resolve(path)).parent
            while not self.tree.on_disk(str(parent)).exists():
                missing.add(str(parent))
                parent = parent.parent
        return sorted(missing)

    def save_backup(self, content: bytes) -> None:
        """Saves bytes under their digest; there already is as good."""
        path = backup_path(digest(content))
        if self.tree.read(path) != content:
            self.write(path, content, mode=0o600)

    def backups(self) -> dict[str, bytes]:
        """Every back-up whose bytes are still those its name says."""
        found = {}
        for name in self.tree.names(BACKUP_DIR) or ():
            content = self.tree.read(f"{BACKUP_DIR}/{name}")
            if content is not None and digest(content) == name:
                found[name] = content
        return found

    def write(
        self, path: str, content: bytes, *, mode: int = 0o644, original: Original | None = None
    ) -> None:
        """Replaces or makes a file.

        Args:
            path: the file on the node.
            content: its bytes.
            mode: permissions of a new file; an existing one keeps its own.
            original: mode, owner and time to give back, for a restore.
        """
        file = self._file(path)
        self._make_dirs(file.parent)
        new = file.with_name(f".{file.name}{NEW_SUFFIX}")
        self._before(f"write {path}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(new, flags, 0o600), "wb") as out:
            out.write(content)
            out.flush()
            self._dress(out.fileno(), file, mode, original)
            os.fsync(out.fileno())
        self._before(f"rename {path}")
        new.rename(file)
        _sync_dir(file.parent)

    def link(self, path: str, target: str) -> None:
        """Makes a symbolic link in one rename."""
        file = self._place(path)
        self._make_dirs(file.parent)
        new = file.with_name(f".{file.name}{NEW_SUFFIX}")
        self._before(f"link {path}")
        new.unlink(missing_ok=True)
        new.symlink_to(target)
        new.rename(file)
        _sync_dir(file.parent)

    def remove(self, path: str) -> None:
        """Removes a file or link; gone already is as good."""
        file = self._place(path)
        self._before(f"remove {path}")
        file.unlink(missing_ok=True)
        if file.parent.is_dir():
            _sync_dir(file.parent)

    def rename(self, path: str, to: str) -> None:
        """Renames a file within its directory."""
        self._before(f"rename {path}")
        self._file(path).rename(self._place(to))
        _sync_dir(self._file(path).parent)

    def sweep(self, paths: Iterable[str]) -> None:
        """Removes what a crash left half-written beside these files."""
        for path in paths:
            file = self._place(path)
            file.with_name(f".{file.name}{NEW_SUFFIX}").unlink(missing_ok=True)

    def remove_dirs(self, paths: Iterable[str]) -> None:
        """Removes directories that are empty now, innermost first."""
        for path in sorted(paths, reverse=True):
            self._before(f"remove directory {path}")
            with contextlib.suppress(OSError):  # somebody else uses it
                self.tree.on_disk(path).rmdir()

    def forget(self) -> None:
        """Removes back-ups and, last of all, the manifest."""
        for name in self.tree.names(BACKUP_DIR) or ():
            self.remove(f"{BACKUP_DIR}/{name}")
        self.remove_dirs([BACKUP_DIR])
        self.sweep([MANIFEST_PATH])
        self.remove(MANIFEST_PATH)

    def is_state_left(self) -> bool:
        """Whether the service left records of its own."""
        names = set(self.tree.names(STATE_DIR) or ())
        return bool(names - {Path(INSTALL_DIR).name})

    def _file(self, path: str) -> Path:
        return self.tree.on_disk(self.tree.resolve(path))

    def _place(self, path: str) -> Path:
        """The place of a name itself: only links in its directory are followed."""
        directory, _, name = path.rpartition("/")
        return self._file(directory) / name

    def _make_dirs(self, directory: Path) -> None:
        if directory.is_dir():
            return
        self._make_dirs(directory.parent)
        private = "podferry" in directory.parts[-2:] and "lib" in directory.parts
        self._before(f"make directory {directory}")
        directory.mkdir(mode=0o700 if private else 0o755, exist_ok=True)
        _sync_dir(directory.parent)

    def _dress(self, new: int, file: Path, mode: int, original: Original | None) -> None:
        """Gives a new file what the one it replaces has: owner, mode, time, attributes."""
        old = file.stat() if file.exists() else None
        if original is not None:
            os.fchown(new, original.uid, original.gid)
            os.fchmod(new, original.mode)
        elif old is not None:
            os.fchown(new, old.st_uid, old.st_gid)
            os.fchmod(new, stat.S_IMODE(old.st_mode))
        else:
            os.fchmod(new, mode)
        if old is not None:
            _copy_attributes(file, new)
        if original is not None:
            os.utime(new, ns=(original.mtime_ns, original.mtime_ns))


def _copy_attributes(file: Path, new: int) -> None:
    """Extended attributes: ACLs and security labels among them."""
    for name in os.listxattr(file):
        try:
            os.setxattr(new, name, os.getxattr(file, name))
        except OSError as error:
            # The kernel sets labels itself where we may not; the rest has no meaning there.
            if error.errno not in (errno.ENOTSUP, errno.EPERM):
                raise


def _sync_dir(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
