# SPDX-License-Identifier: Apache-2.0
"""Keeps what a pod's containers say to each other over loopback while not all of them are there.

They are dumped one after the other and come back one after the other: what the first sent to the
second, before that has its sockets again, would be answered by a reset. So lo is stopped up as the
plug of a hold is, from before the first dump until after the last wake. Everything here blocks.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

from pyroute2 import IPRoute

from shim.errors import PodferryError
from shim.network import plug, rtnetlink

LIMIT_BYTES = 8 << 20
DRAIN_S = 0.5
STEP_S = 0.001
_CLONE_NEWNET = 0x40000000
_DISCARD = ("127.0.0.1", 9)

_libc = ctypes.CDLL(None, use_errno=True)


def shut(netns: Path) -> None:
    """Lets nothing through lo from now on; what is sent waits.

    Raises:
        PodferryError: the kernel refuses.
    """
    _inside(netns, lambda: plug.send([plug.stopping_up(_index(), LIMIT_BYTES)]))


def open_again(netns: Path) -> None:
    """Lets go what waits, and leaves lo as it was; nothing if it is not shut or the pod is gone.

    Raises:
        PodferryError: the kernel refuses.
    """
    if netns.exists():
        _inside(netns, _open_here)


def _open_here() -> None:
    index = _index()
    if _waiting(index) is None:
        return
    plug.send(plug.opening(index, LIMIT_BYTES)[:1])
    # The qdisc looks for tokens when a packet comes: this one is nobody's.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        any_socket.sendto(b"", _DISCARD)
    until = time.monotonic() + DRAIN_S
    while _waiting(index) and time.monotonic() < until:
        time.sleep(STEP_S)
    plug.send([rtnetlink.remove_root(index)], ignored=(errno.ENOENT, errno.EINVAL))


def _waiting(index: int) -> int | None:
    """How many packets wait in our qdisc; None if there is none."""
    with IPRoute() as route:
        for message in route.get_qdiscs(index):
            if message.get_attr("TCA_KIND") == "tbf":
                stats = message.get_attr("TCA_STATS")
                return int(stats["qlen"]) if stats else 0
    return None


def _index() -> int:
    return socket.if_nametoindex("lo")


def _inside(netns: Path, body: Callable[[], None]) -> None:
    """Runs ``body`` in a network namespace, on a thread that ends with it."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            fd = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
            try:
                if _libc.setns(fd, _CLONE_NEWNET):
                    code = ctypes.get_errno()
                    raise OSError(code, os.strerror(code))
            finally:
                os.close(fd)
            body()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run, name="loopback")
    thread.start()
    thread.join()
    if not failures:
        return
    if isinstance(failures[0], OSError):
        raise PodferryError(f"lo: {failures[0].strerror}", where=str(netns)) from failures[0]
    raise failures[0]
