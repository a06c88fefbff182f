# SPDX-License-Identifier: Apache-2.0
"""Sends what the processes of one container have written, round by round, to its store.

Everything blocks; nothing here is on the event loop.
"""

from __future__ import annotations

import errno
import functools
import logging
from dataclasses import dataclass, field

from shim._native_track import PAGE_BYTES, Mode
from shim.errors import NativeError
from shim.memory.stream import Sender
from shim.memory.tracker import PodRound, PodTracker, descendants

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Memory:
    """The memory of one container.

    Attributes:
        init_pid: its first process, as the node counts.
        sender: to its store.
        pids: the processes of the last round, as the node counts, and their pids in the image.
    """

    init_pid: int
    sender: Sender
    pids: dict[int, int] = field(default_factory=dict)
    _tracker: PodTracker = field(init=False)
    _told: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._tracker = PodTracker(functools.partial(descendants, self.init_pid))

    def round(self) -> int:
        """Sends what was written since the last round; the bytes that were given to the stream.

        Raises:
            NativeError: the stream is broken, or a process cannot be tracked.
        """
        found = self._tracker.round()
        for pid, member in found.members.items():
            if member.mode is Mode.HASH and pid not in self._told:
                self._told.add(pid)
                logger.warning("memory is tracked by hashes pid=%d reason=%s", pid, member.reason)
        sent = self._send(found, stopped=False)
        self.sender.flush()
        return sent

    def final(self) -> int:
        """The same while every task stands still; what follows on the stream is flushed with it."""
        found = self._tracker.final()
        self.pids = {pid: one.image_pid for pid, one in found.members.items()}
        return self._send(found, stopped=True)

    def _send(self, found: PodRound, *, stopped: bool) -> int:
        for image_pid in found.ended:
            self.sender.forget_process(image_pid)
        for pid, one in found.rounds.items():
            try:
                self.sender.send_runs(pid, found.members[pid].image_pid, one.runs.buffer())
            except NativeError as error:
                if error.errno_value != errno.ESRCH or stopped:
                    raise
                # It has ended since the scan; the next round says so.
        return found.pages * PAGE_BYTES

    def close(self) -> None:
        """Lets the processes go."""
        self._tracker.close()
