# SPDX-License-Identifier: Apache-2.0
"""The figures of calls: how many, how they ended, how long ours and the backend's part took."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from shim.core.registry import NOBODY, Subject

RECENT = 512
"""Samples kept per method for percentiles: enough for p99, few enough to forget old trouble."""


@dataclass(slots=True)
class CallRecord:
    """One call, from its arrival to its end. Times are seconds of a monotonic clock."""

    call_id: int
    method: str
    begun_s: float
    subject: Subject = NOBODY
    backend_s: float = 0.0
    took_s: float = 0.0
    code: str = ""
    request_bytes: int = 0
    reply_bytes: int = 0
    held_s: float = 0.0
    stream: bool = False

    @property
    def ours_s(self) -> float:
        """What the proxy itself added: all but the backend's time and wanted waiting."""
        return max(0.0, self.took_s - self.backend_s - self.held_s)


@dataclass(slots=True)
class MethodFigures:
    """What is known of one method's calls."""

    calls: int = 0
    errors: int = 0
    ours_s: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))
    backend_s: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))


Watcher = Callable[[CallRecord, bool], None]


class CallLedger:
    """Counts calls and tells watchers of them. ``watcher(record, ended)`` must return at once.

    Args:
        on_watcher_failure: told what a watcher raised, since its call must not fail for that.
    """

    def __init__(
        self, on_watcher_failure: Callable[[Exception], None] = lambda error: None
    ) -> None:
        self._on_watcher_failure = on_watcher_failure
        self.in_flight: dict[int, CallRecord] = {}
        self.methods: dict[str, MethodFigures] = {}
        self.total = 0
        self._watchers: list[Watcher] = []

    def begin(self, method: str, now_s: float, *, stream: bool = False) -> CallRecord:
        """Notes that a call has arrived."""
        self.total += 1
        record = CallRecord(self.total, method, now_s, stream=stream)
        self.in_flight[record.call_id] = record
        self._tell(record, False)
        return record

    def end(self, record: CallRecord, label: str, code: str, now_s: float) -> None:
        """Notes how a call ended; ``label`` is its name in figures."""
        record.took_s = now_s - record.begun_s
        record.code = code
        self.in_flight.pop(record.call_id, None)
        figures = self.methods.setdefault(label, MethodFigures())
        figures.calls += 1
        figures.errors += code != "OK"
        if not record.stream:
            figures.ours_s.append(record.ours_s)
            figures.backend_s.append(record.backend_s)
        self._tell(record, True)

    def watch(self, watcher: Watcher) -> Callable[[], None]:
        """Adds a watcher and returns what removes it."""
        self._watchers.append(watcher)
        return lambda: self._watchers.remove(watcher)

    def _tell(self, record: CallRecord, ended: bool) -> None:
        for watcher in tuple(self._watchers):
            try:
                watcher(record, ended)
            except Exception as error:
                self._on_watcher_failure(error)

    def finite_in_flight(self) -> int:
        """Calls that will end by themselves; open event streams never do."""
        return sum(
            1 for r in self.in_flight.values() if not r.method.endswith("/GetContainerEvents")
        )


def percentile(samples: deque[float], fraction: float) -> float:
    """The sample below which ``fraction`` of all lie; 0.0 without samples."""
    if not samples:
        return 0.0
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(fraction * len(ordered)))]
