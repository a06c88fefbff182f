# SPDX-License-Identifier: Apache-2.0
"""Runs probes in processes of their own, so that one that crashes or hangs takes no other down."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, NoReturn, TypeVar

# On two cores more at once would only make each slower and nearer to its deadline.
AT_ONCE = 4
READ_BYTES = 1 << 16

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Task:
    """A probe to run: what makes its bytes, and how long it may take."""

    run: Callable[[], bytes]
    deadline_s: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a probe: its bytes, or why there are none."""

    data: bytes = b""
    problem: str = ""


@dataclass(slots=True)
class _Child(Generic[Key]):
    key: Key
    pid: int
    fd: int
    ends_at: float
    data: bytearray = field(default_factory=bytearray)
    said_all: bool = False


def run_all(tasks: Mapping[Key, Task]) -> Iterator[tuple[Key, Outcome]]:
    """Runs the tasks, a few at once, and gives each outcome as it comes.

    A task runs in a forked child with a process group of its own: what it started is ended with
    it. Its exception, its death and its lateness are outcomes.
    """
    waiting = list(tasks.items())
    running: dict[int, _Child[Key]] = {}
    with selectors.DefaultSelector() as selector:
        try:
            while waiting or running:
                while waiting and len(running) < AT_ONCE:
                    child = _start(*waiting.pop(0))
                    running[child.fd] = child
                    selector.register(child.fd, selectors.EVENT_READ)
                soonest = min(child.ends_at for child in running.values())
                ready = selector.select(max(0.0, soonest - time.monotonic()))
                for child in _finished(running, [key.fd for key, _ in ready]):
                    selector.unregister(child.fd)
                    del running[child.fd]
                    yield child.key, _end(child, tasks[child.key].deadline_s)
        finally:
            for child in running.values():
                _end(child, 0)


def _finished(running: Mapping[int, _Child[Key]], ready: list[int]) -> list[_Child[Key]]:
    done = []
    for fd in ready:
        part = os.read(fd, READ_BYTES)
        running[fd].data += part
        if not part:
            running[fd].said_all = True
            done.append(running[fd])
    now = time.monotonic()
    return done + [
        child for child in running.values() if child.ends_at <= now and child not in done
    ]


def _start(key: Key, task: Task) -> _Child[Key]:
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        _run_child(task, read_end, write_end)
    os.close(write_end)
    return _Child(key, pid, read_end, time.monotonic() + task.deadline_s)


def _run_child(task: Task, read_end: int, write_end: int) -> NoReturn:
    status = 1
    try:
        os.setpgid(0, 0)
        os.close(read_end)
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        try:
            data = b"+" + task.run()
        except Exception as error:
            data = b"-" + f"{type(error).__name__}: {error}".encode("utf-8", "replace")
        with open(write_end, "wb") as stream:
            stream.write(data)
        status = 0
    finally:
        # Not sys.exit: what the parent wants done at its exit is not this child's to do.
        os._exit(status)


def _end(child: _Child[Any], deadline_s: float) -> Outcome:
    # The group goes in any case: a probe that gave its answer may have left something running.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.kill(child.pid, signal.SIGKILL)
    _, status = os.waitpid(child.pid, 0)
    os.close(child.fd)
    kind, data = child.data[:1], bytes(child.data[1:])
    if not child.said_all:
        return Outcome(problem=f"no answer within {deadline_s:g} s")
    if kind == b"+":
        return Outcome(data=data)
    if kind == b"-":
        return Outcome(problem=data.decode("utf-8", "replace"))
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        return Outcome(problem=f"the probe died without an answer ({name})")
    return Outcome(problem=f"the probe ended with status {os.waitstatus_to_exitcode(status)}")
