# SPDX-License-Identifier: Apache-2.0
"""Makes and removes the clone of a container's mount tree that its restore binds mounts from.

The clone is recursive and detached from the container's mount namespace, so a tmpfs, a devpts or a
bind mount lives on while no process of the container does. It costs 2-4 ms, outside the freeze.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from pathlib import Path

from shim.core import mounts
from shim.errors import PodferryError

_CLONE_NEWNS = 0x00020000
_CLONE_FS = 0x00000200
_MS_BIND = 0x1000
_MS_PRIVATE = 1 << 18
_MNT_DETACH = 2
_AT_FDCWD = -100
_AT_RECURSIVE = 0x8000
_OPEN_TREE_CLONE = 1
_MOVE_MOUNT_F_EMPTY_PATH = 4
# The same on every architecture: system calls since Linux 5.0 share their numbers.
_SYS_OPEN_TREE = 428
_SYS_MOVE_MOUNT = 429

_libc = ctypes.CDLL(None, use_errno=True)


def _call(step: str, where: str, value: int) -> int:
    if value < 0:
        code = ctypes.get_errno()
        raise PodferryError(f"{step} failed: {os.strerror(code)}", where=where)
    return value


def create(container_pid: int, holder_pid: int, at: Path) -> None:
    """Clones the mount tree of a container to ``at``.

    Args:
        container_pid: any process of the container.
        holder_pid: a process of the mount namespace that CRIU will run in.
        at: a path in that namespace; its parent is made a mount point of its own that nothing
            propagates from.

    Raises:
        PodferryError: a step failed; nothing is left mounted at ``at``.
    """

    # Both are opened first: inside the container, /proc shows the container's processes.
    source = _open(container_pid, str(at))
    target = _open(holder_pid, str(at))

    def body() -> None:
        tree = _take(source, str(at))
        try:
            _enter(target, str(at))
            _make_private(at.parent)
            at.mkdir(mode=0o700, exist_ok=True)
            path = os.fsencode(at)
            moved = _libc.syscall(
                _SYS_MOVE_MOUNT, tree, b"", _AT_FDCWD, path, _MOVE_MOUNT_F_EMPTY_PATH
            )
            _call("move_mount", str(at), moved)
        finally:
            os.close(tree)

    try:
        _on_thread_of_its_own(body)
    finally:
        os.close(source)
        os.close(target)


def remove(holder_pid: int, at: Path) -> None:
    """Takes the clone at ``at`` away, also where it was mounted more than once or not at all."""

    target = _open(holder_pid, str(at))

    def body() -> None:
        _enter(target, str(at))
        while _libc.umount2(os.fsencode(at), _MNT_DETACH) == 0:
            pass
        if at.exists():
            at.rmdir()

    try:
        _on_thread_of_its_own(body)
    finally:
        os.close(target)


def _open(pid: int, where: str) -> int:
    try:
        return os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise PodferryError(f"process {pid} is gone: {error.strerror}", where=where) from error


def _enter(namespace: int, where: str) -> None:
    _call("setns to a mount namespace", where, _libc.setns(namespace, _CLONE_NEWNS))


def _take(namespace: int, where: str) -> int:
    _enter(namespace, where)
    flags = _OPEN_TREE_CLONE | _AT_RECURSIVE | os.O_CLOEXEC
    tree: int = _libc.syscall(_SYS_OPEN_TREE, _AT_FDCWD, b"/", flags)
    return _call("open_tree of the container's root", where, tree)


def _make_private(directory: Path) -> None:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    path, where = os.fsencode(directory), str(directory)
    # os.path.ismount cannot tell a directory that is bound onto itself.
    table = mounts.parse(Path("/proc/thread-self/mountinfo").read_text())
    if all(one.point != where for one in table):
        _call("bind mount", where, _libc.mount(path, path, None, _MS_BIND, None))
    _call("making private", where, _libc.mount(None, path, None, _MS_PRIVATE, None))


def _on_thread_of_its_own(body: Callable[[], None]) -> None:
    """Runs ``body`` on a thread that may change its mount namespace, and ends with it."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            # setns refuses a mount namespace while root and working directory are shared.
            _call("unshare", "", _libc.unshare(_CLONE_FS))
            body()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run, name="mount-clone")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
