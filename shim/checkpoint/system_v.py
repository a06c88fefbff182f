# SPDX-License-Identifier: Apache-2.0
"""Takes System V objects out of a pod's IPC namespace while an image holds them.

CRIU makes them anew at the wake, under their old ids, and fails if they still exist. Their memory
goes back to the node with them.
"""

from __future__ import annotations

import ctypes
import os
import threading
from pathlib import Path

from shim.errors import PodferryError

_CLONE_NEWIPC = 0x08000000
_IPC_RMID = 0

_libc = ctypes.CDLL(None, use_errno=True)


def remove_all(namespace: str) -> int:
    """Removes every segment, queue and semaphore of an IPC namespace; returns how many.

    To be called only when the one container that used them is asleep.

    Args:
        namespace: its file.

    Raises:
        PodferryError: the namespace cannot be entered or an object not removed.
    """
    failures: list[BaseException] = []
    removed: list[int] = []

    def run() -> None:
        try:
            removed.append(_remove_here(namespace))
        except BaseException as error:
            failures.append(error)

    # A thread can have an IPC namespace of its own, and takes it away with it.
    thread = threading.Thread(target=run, name="system-v")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return removed[0]


def _remove_here(namespace: str) -> int:
    fd = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.setns(fd, _CLONE_NEWIPC), namespace)
    finally:
        os.close(fd)
    removed = 0
    for identity in _listed("shm"):
        _check(_libc.shmctl(identity, _IPC_RMID, None), namespace)
        removed += 1
    for identity in _listed("msg"):
        _check(_libc.msgctl(identity, _IPC_RMID, None), namespace)
        removed += 1
    for identity in _listed("sem"):
        _check(_libc.semctl(identity, 0, _IPC_RMID, 0), namespace)
        removed += 1
    return removed


def _listed(kind: str) -> list[int]:
    # The table of the namespace of whoever opens it; the second column is the id.
    lines = Path(f"/proc/sysvipc/{kind}").read_text().splitlines()[1:]
    return [int(line.split()[1]) for line in lines]


def _check(value: int, where: str) -> None:
    if value < 0:
        code = ctypes.get_errno()
        raise PodferryError(f"System V objects stay: {os.strerror(code)}", where=where)
