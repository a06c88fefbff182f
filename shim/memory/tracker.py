# SPDX-License-Identifier: Apache-2.0
"""Tracks what all processes of a container write, as they come and go."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from shim._native_track import Mode, ProcessTracker, Round, share_memory
from shim.errors import NativeError

# What a process that has ended, or executes another program just now, answers with.
_VANISHED = frozenset({errno.ESRCH, errno.ENOENT})


@dataclass(frozen=True, slots=True)
class Member:
    """A process of a container.

    Attributes:
        pid: as this process counts.
        image_pid: as the process itself counts, and CRIU's images do.
        mode: how it is tracked.
        reason: why not in a better way, "" if there is none.
    """

    pid: int
    image_pid: int
    mode: Mode
    reason: str


@dataclass(frozen=True, slots=True)
class PodRound:
    """One round over a container's processes; runs are valid until the next one.

    Attributes:
        rounds: what to send of each process, by its pid; read it in the mapping's order.
        members: the processes in ``rounds``.
        ended: image pids whose memory is no more: they ended, or execute another program now, which
            then is in ``rounds`` with everything it has. Forget what was sent of them first.
        sharing: pids that work in another's memory, and whose: nothing is sent of them.
    """

    rounds: Mapping[int, Round]
    members: Mapping[int, Member]
    ended: frozenset[int]
    sharing: Mapping[int, int]

    @property
    def pages(self) -> int:
        """How many pages there are to send."""
        return sum(found.statistics.pages for found in self.rounds.values())

    @property
    def dirty_bytes_per_s(self) -> float:
        """How fast memory that was tracked before is written."""
        return sum(found.statistics.dirty_bytes_per_s for found in self.rounds.values())

    @property
    def scan_s(self) -> float:
        """How long the scans took."""
        return sum(found.statistics.scan_s for found in self.rounds.values())

    @property
    def registered_share(self) -> float:
        """The share of memory about which more is known than that it is there."""
        known = sum(found.statistics.registered_bytes for found in self.rounds.values())
        whole = sum(found.statistics.eligible_bytes for found in self.rounds.values())
        return known / whole if whole else 0.0


@dataclass(slots=True)
class PodTracker:
    """Tracks the processes that ``pids`` tells at each round; calls block and release the GIL.

    Args:
        pids: gives the container's processes, parents before their children (`descendants`).
        mode: how to track.
    """

    pids: Callable[[], Iterable[int]]
    mode: Mode = Mode.AUTO
    _trackers: dict[int, ProcessTracker] = field(default_factory=dict, repr=False)
    _image_pids: dict[int, int] = field(default_factory=dict, repr=False)

    def round(self) -> PodRound:
        """What was written since the round before; everything of processes that are new.

        Raises:
            NativeError: a process cannot be tracked in any way.
        """
        return self._round(ProcessTracker.round)

    def final(self) -> PodRound:
        """The same while all tasks are stopped; protects nothing again. Raises as `round`."""
        return self._round(ProcessTracker.final)

    def forget(self) -> None:
        """Has the next round give everything: what was sent is lost."""
        for tracker in self._trackers.values():
            tracker.forget()

    def close(self) -> None:
        """Lets all processes go. A second call does nothing."""
        for pid in list(self._trackers):
            self._drop(pid)

    def _round(self, scan: Callable[[ProcessTracker], Round]) -> PodRound:
        rounds: dict[int, Round] = {}
        members: dict[int, Member] = {}
        ended: set[int] = set()
        sharing: dict[int, int] = {}
        pids = list(dict.fromkeys(self.pids()))
        for pid in set(self._trackers) - set(pids):
            ended.add(self._drop(pid))
        for pid in pids:
            owner = self._owner(pid, members)
            if owner is not None:
                sharing[pid] = owner
                continue
            found = self._scan(pid, scan, ended)
            if found is None:
                continue
            tracker = self._trackers[pid]
            rounds[pid] = found
            members[pid] = Member(pid, self._image_pids[pid], tracker.mode, tracker.reason)
        return PodRound(rounds, members, frozenset(ended), sharing)

    def _owner(self, pid: int, members: Iterable[int]) -> int | None:
        """Whose memory a new process works in, if it is not its own."""
        if pid in self._trackers:
            return None
        return next((one for one in members if share_memory(one, pid)), None)

    def _scan(
        self, pid: int, scan: Callable[[ProcessTracker], Round], ended: set[int]
    ) -> Round | None:
        # Twice: a process may end and another take its pid, or it may execute another program.
        for _ in range(2):
            try:
                if pid not in self._trackers:
                    self._image_pids[pid] = image_pid(pid)
                    self._trackers[pid] = ProcessTracker(pid, self.mode)
                return scan(self._trackers[pid])
            except (NativeError, OSError) as error:
                number = error.errno_value if isinstance(error, NativeError) else error.errno
                if number not in _VANISHED | {errno.ESTALE}:
                    raise
                if pid in self._trackers:
                    ended.add(self._drop(pid))
        return None

    def _drop(self, pid: int) -> int:
        self._trackers.pop(pid).close()
        return self._image_pids.pop(pid)


def image_pid(pid: int) -> int:
    """The pid that a process has in its innermost namespace.

    Raises:
        OSError: ENOENT, there is no such process.
    """
    for line in Path(f"/proc/{pid}/status").read_text("utf-8").splitlines():
        if line.startswith("NSpid:"):
            return int(line.split()[-1])
    return pid


def descendants(init: int) -> Iterator[int]:
    """A process and all that come from it, parents first: the tree that CRIU dumps.

    A child that is made meanwhile may be missed; it is found the next time, and among stopped
    processes nothing is missed.
    """
    waiting = [init]
    while waiting:
        pid = waiting.pop(0)
        yield pid
        try:
            tasks = list(Path(f"/proc/{pid}/task").iterdir())
        except OSError:
            continue
        for task in tasks:
            try:
                text = (task / "children").read_text("utf-8")
            except OSError:
                continue
            waiting.extend(int(child) for child in text.split())
