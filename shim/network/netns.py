# SPDX-License-Identifier: Apache-2.0
"""Runs a function inside another network namespace, on a thread that ends with it."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from shim.errors import NativeError, NotFound

_CLONE_NEWNET = 0x40000000
_T = TypeVar("_T")


def within(netns: Path, body: Callable[[], _T]) -> _T:
    """Calls a function in a network namespace; sockets that it makes stay there.

    A thread that has entered a namespace never runs anything else: no other code of the process can
    find itself on the wrong side.

    Args:
        netns: the namespace's file.
        body: must not start threads that outlive it.

    Raises:
        NotFound: there is no such namespace.
        NativeError: it cannot be entered.
    """
    results: list[_T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            _enter(netns)
            results.append(body())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="podferry-netns")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def _enter(netns: Path) -> None:
    try:
        file = netns.open("rb")
    except OSError as error:
        raise NotFound("there is no such network namespace", where=str(netns)) from error
    with file:
        if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), _CLONE_NEWNET) != 0:
            code = ctypes.get_errno()
            raise NativeError(
                f"cannot enter the network namespace: {os.strerror(code)}",
                errno_value=code,
                where=str(netns),
            )


def write_setting(name: str, value: str, *, optional: bool = False) -> bool:
    """Writes a setting of this thread's network namespace.

    Args:
        name: its path below /proc/sys, as `net/ipv4/conf/all/rp_filter`.
        value: what is written.
        optional: whether a kernel without it is fine; False is then returned.

    Raises:
        NativeError: it cannot be written.
    """
    try:
        # /proc/sys/net shows the namespace of whoever opens it.
        (Path("/proc/sys") / name).write_text(value, "ascii")
    except FileNotFoundError:
        if optional:
            return False
        raise NativeError("the kernel has no such setting", where=name) from None
    except OSError as error:
        raise NativeError(
            f"cannot be set to {value}: {error.strerror}",
            errno_value=error.errno or 0,
            where=f"/proc/sys/{name}",
        ) from error
    return True
