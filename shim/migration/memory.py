# SPDX-License-Identifier: Apache-2.0
"""Sends what the processes of one container have written, round by round, to its store.

Processes are looked for anew in each round: one that was forked since is sent whole, one that has
ended is forgotten. Everything blocks; nothing here is on the event loop.
"""

from __future__ import annotations

import contextlib
import errno
import logging
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from shim._native_track import PAGE_BYTES, Mode, ProcessTracker, Round
from shim.errors import NativeError
from shim.memory.stream import Sender

logger = logging.getLogger(__name__)

_GONE = frozenset({errno.ESRCH, errno.ESTALE})


@dataclass(slots=True)
class Tracked:
    """One process: its tracker, and its pid as CRIU's image will count."""

    tracker: ProcessTracker
    inside_pid: int


@dataclass(slots=True)
class Memory:
    """The memory of one container.

    Attributes:
        init_pid: its first process, as the node counts.
        sender: to its store.
    """

    init_pid: int
    sender: Sender
    _tracked: dict[int, Tracked] = field(default_factory=dict)

    def round(self) -> int:
        """Sends what was written since the last round; the bytes that were given to the stream.

        Raises:
            NativeError: the stream is broken.
        """
        sent = self._round(last=False)
        self.sender.flush()
        return sent

    def final(self) -> int:
        """The same while every task stands still; what follows on the stream is flushed with it."""
        return self._round(last=True)

    def _round(self, *, last: bool) -> int:
        sent = 0
        present = _processes(self.init_pid)
        for pid in [one for one in self._tracked if one not in present]:
            self._forget(pid)
        for pid in present:
            try:
                sent += self._one(pid, last)
            except NativeError as error:
                if error.errno_value not in _GONE or last:
                    raise
                self._forget(pid)  # it has ended, or executed another program: the next round
        return sent

    def _one(self, pid: int, last: bool) -> int:
        known = self._tracked.get(pid)
        if known is None:
            # What is stopped for good needs no tracking.
            mode = Mode.HASH if last else Mode.AUTO
            tracker = ProcessTracker(pid, mode)
            known = self._tracked[pid] = Tracked(tracker, _inside_pid(pid))
            if tracker.mode is Mode.HASH and not last:
                logger.warning("memory is tracked by hashes pid=%d reason=%s", pid, tracker.reason)
        found: Round = known.tracker.final() if last else known.tracker.round()
        self.sender.send_runs(pid, known.inside_pid, found.runs.buffer())
        return found.statistics.pages * PAGE_BYTES

    def _forget(self, pid: int) -> None:
        known = self._tracked.pop(pid)
        known.tracker.close()
        with contextlib.suppress(NativeError):
            self.sender.forget_process(known.inside_pid)

    def close(self) -> None:
        """Lets the processes go."""
        for one in self._tracked.values():
            one.tracker.close()
        self._tracked.clear()


def _processes(init_pid: int) -> list[int]:
    try:
        init = psutil.Process(init_pid)
        found = [init_pid, *(one.pid for one in init.children(recursive=True))]
    except psutil.NoSuchProcess:
        return []
    return [pid for pid in found if not _is_zombie(pid)]


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def _inside_pid(pid: int) -> int:
    """As its own pid namespace counts (proc_pid_status(5), NSpid)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("NSpid:"):
            return int(line.split()[-1])
    return pid
