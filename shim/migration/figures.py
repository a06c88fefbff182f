# SPDX-License-Identifier: Apache-2.0
"""What a move took: the times of its phases, what was sent; the result that commands show."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

Span = tuple[str, str, str]
"""A phase, and the marks between which it lies."""

FREEZE_SPANS: tuple[Span, ...] = (
    ("quiesce", "held", "frozen"),
    ("dump", "frozen", "dumped"),
    ("send", "dumped", "sent"),
    ("stage", "sent", "staged"),
    ("give_up", "staged", "gave_up"),
    ("commit", "gave_up", "committed"),
    ("flip", "committed", "flipped"),
    ("wait", "flipped", "resumed"),
)
SOURCE_SPANS: tuple[Span, ...] = (
    ("prepare", "asked", "prepared"),
    ("copy", "prepared", "held"),
    *FREEZE_SPANS,
    ("settle", "departed", "settled"),
)
TARGET_SPANS: tuple[Span, ...] = (
    ("prepare", "asked", "prepared"),
    ("copy", "prepared", "staging"),
    ("stage", "staging", "staged"),
    ("wait", "staged", "committing"),
    ("commit", "committing", "resumed"),
    ("settle", "resumed", "settled"),
)


@dataclass(frozen=True, slots=True)
class Progress:
    """A piece of progress.

    Attributes:
        phase: of docs/migration.md.
        text: what happened in it.
        at_s: since the move began.
    """

    phase: str
    text: str
    at_s: float


@dataclass(frozen=True, slots=True)
class Round:
    """One round of the memory's copy."""

    sent_bytes: int
    took_s: float

    @property
    def rate_bytes_per_s(self) -> float:
        """What the link took; a round of next to nothing says nothing of it."""
        return self.sent_bytes / self.took_s if self.sent_bytes > MEASURABLE_BYTES else FALLBACK


MEASURABLE_BYTES = 4 << 20
FALLBACK = 400e6
"""Bytes per second that are assumed until a round was large enough to measure."""


@dataclass(slots=True)
class Figures:
    """What a move took.

    Attributes:
        rounds: of the memory's copy.
        files_bytes: of files, sent while the pod ran.
        last_bytes: of memory and images, sent in the freeze.
        last_files_bytes: of files, sent in the freeze.
        seal_ms: of the target's store.
        restore_ms: of the target's restore, up to the point before the tasks run.
        resume_ms: from the commit's arrival until they run.
        left_out_pages: that were sent and that CRIU was kept from.
        criu: what CRIU writes of its restores (stats-restore), added up. Of its dumps it writes
            nothing, as it is ended before it would.
        throttled: whether the pod dirtied memory faster than the link took it.
        all_forwarded: whether every held packet went over.
        held_packets: how many waited for the pod.
        fresh: whether the target has just said that it is staged.
        marks: name to CLOCK_MONOTONIC seconds.
    """

    rounds: list[Round] = field(default_factory=list)
    files_bytes: int = 0
    last_bytes: int = 0
    last_files_bytes: int = 0
    seal_ms: float = 0.0
    restore_ms: float = 0.0
    resume_ms: float = 0.0
    left_out_pages: int = 0
    criu: Counter[str] = field(default_factory=Counter)
    throttled: bool = False
    all_forwarded: bool = True
    held_packets: int = 0
    fresh: bool = True
    marks: dict[str, float] = field(default_factory=dict)

    def mark(self, name: str) -> None:
        """Notes that something has just been reached."""
        self.marks[name] = time.monotonic()

    def between_ms(self, begin: str, end: str) -> float:
        """Milliseconds between two marks; 0 if one was not reached."""
        if begin not in self.marks or end not in self.marks:
            return 0.0
        return (self.marks[end] - self.marks[begin]) * 1e3

    def reached_ms(self, spans: Iterable[Span]) -> dict[str, float]:
        """Milliseconds of those phases that have been gone through."""
        return {
            name: self.between_ms(begin, end)
            for name, begin, end in spans
            if begin in self.marks and end in self.marks
        }

    @property
    def copied_bytes(self) -> int:
        """Of memory, sent while the pod ran."""
        return sum(one.sent_bytes for one in self.rounds)

    @property
    def stood_still_ms(self) -> float:
        """From the freezer until it ran, there or here again; 0 if it was not frozen."""
        return self.frozen_ms or self.between_ms("frozen", "undone")

    @property
    def frozen_ms(self) -> float:
        """From the freezer to the resume."""
        return self.between_ms("frozen", "resumed")

    @property
    def held_ms(self) -> float:
        """From the first held packet until those that were sent over reach the pod."""
        return self.between_ms("held", "resumed")

    def as_dict(self) -> dict[str, float | int | bool]:
        """All of it, flat, for programs."""
        spans = {
            f"{name}_ms": round(self.between_ms(begin, end), 2) for name, begin, end in FREEZE_SPANS
        }
        return {
            "frozen_ms": round(self.frozen_ms, 2),
            "held_ms": round(self.held_ms, 2),
            "rounds": len(self.rounds),
            "copied_bytes": self.copied_bytes,
            "files_bytes": self.files_bytes,
            "last_bytes": self.last_bytes,
            "last_files_bytes": self.last_files_bytes,
            "seal_ms": round(self.seal_ms, 2),
            "restore_ms": round(self.restore_ms, 2),
            "resume_ms": round(self.resume_ms, 2),
            "throttled": self.throttled,
            "all_forwarded": self.all_forwarded,
            "held_packets": self.held_packets,
            "left_out_pages": self.left_out_pages,
            **spans,
            **{f"criu_{name}": round(value, 2) for name, value in sorted(self.criu.items())},
        }

    def summary(self) -> str:
        """The result in a line."""
        return (
            f"stood still for {self.frozen_ms:.1f} ms; {self.copied_bytes >> 20} MiB copied ahead "
            f"in {len(self.rounds)} rounds, {self.last_bytes >> 10} KiB in the freeze"
        )
