# SPDX-License-Identifier: Apache-2.0
"""Switches MPTCP off in a pod's network namespace, before any program of the pod runs.

CRIU cannot dump an MPTCP socket, and Go listens with MPTCP by default since 1.24. Where the kernel
refuses MPTCP, Go and others that ask for it take plain TCP.
"""

from __future__ import annotations

import ctypes
import os
import threading
from pathlib import Path

from shim.errors import PodferryError

_CLONE_NEWNET = 0x40000000
_SWITCH = Path("/proc/sys/net/mptcp/enabled")

_libc = ctypes.CDLL(None, use_errno=True)


def switch_off(netns: Path) -> bool:
    """Switches it off; False where the kernel has none.

    Args:
        netns: the file of the namespace.

    Raises:
        PodferryError: the namespace cannot be entered or the switch not set.
    """
    said: list[bool | OSError] = []

    def run() -> None:
        try:
            said.append(_switch_off(netns))
        except OSError as error:
            said.append(error)

    # The file is that of the namespace of whoever opens it; a thread may have one of its own.
    thread = threading.Thread(target=run, name="mptcp")
    thread.start()
    thread.join()
    (answer,) = said
    if isinstance(answer, OSError):
        raise PodferryError(
            f"MPTCP is not switched off: {answer.strerror}", where=str(netns)
        ) from answer
    return answer


def _switch_off(netns: Path) -> bool:
    fd = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(fd, _CLONE_NEWNET):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
    finally:
        os.close(fd)
    if not _SWITCH.exists():
        return False
    _SWITCH.write_text("0")
    return True
