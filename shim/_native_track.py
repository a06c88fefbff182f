# SPDX-License-Identifier: Apache-2.0
"""The C library's tracker of written pages, with Python's types and errors."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from shim._native import binding, call, text

PAGE_BYTES = 4096
# struct pf_run, native/include/podferry/run.h
RUN_BYTES = 16


class Mode(enum.IntEnum):
    """How written pages are found; AUTO is the best that works."""

    AUTO = 0
    WP_ASYNC = 1
    HASH = 2


class RunFlag(enum.IntFlag):
    """What is known of pages: they are zeros; a device may have written them, unseen."""

    ZERO = 1 << 0
    SUSPECT = 1 << 1


class PageState(enum.IntEnum):
    """What reading a page gave; a page that is GONE is zeros in the buffer."""

    READ = 0
    ZERO = 1
    GONE = 2


@dataclass(frozen=True, slots=True)
class Run:
    """A stretch of pages."""

    vaddr: int
    pages: int
    flags: RunFlag

    @property
    def end(self) -> int:
        """The address behind the last page."""
        return self.vaddr + self.pages * PAGE_BYTES


@dataclass(frozen=True, slots=True)
class Runs:
    """Runs by ascending address, as the library keeps them: valid until the tracker's next call."""

    _list: Any
    _count: int

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Run]:
        for number in range(self._count):
            run = self._list[number]
            yield Run(int(run.vaddr), int(run.pages), RunFlag(run.flags))

    def buffer(self) -> memoryview:
        """The array of struct pf_run itself, without a copy."""
        ffi, _ = binding()
        if not self._count:
            return memoryview(b"")
        return memoryview(ffi.buffer(self._list, self._count * RUN_BYTES))


@dataclass(frozen=True, slots=True)
class Statistics:
    """One round in numbers.

    Attributes:
        number: counts a tracker's rounds from 1.
        pages: to send.
        dirty_pages: of them, in memory that was tracked before.
        zero_pages: of them, known to be zeros.
        suspect_pages: of them, not seen to be written, but perhaps by a device.
        eligible_bytes: length of all mappings the tracker is about.
        registered_bytes: of them, tracked since the round before.
        mapping_count: how many mappings.
        scan_s: how long the round took.
        since_s: since the round before, 0.0 in the first one.
    """

    number: int
    pages: int
    dirty_pages: int
    zero_pages: int
    suspect_pages: int
    eligible_bytes: int
    registered_bytes: int
    mapping_count: int
    scan_s: float
    since_s: float

    @property
    def dirty_bytes_per_s(self) -> float:
        """How fast tracked memory is written; a page that is written often counts once."""
        return self.dirty_pages * PAGE_BYTES / self.since_s if self.since_s else 0.0

    @property
    def registered_share(self) -> float:
        """The share of memory about which more is known than that it is there."""
        return self.registered_bytes / self.eligible_bytes if self.eligible_bytes else 0.0


@dataclass(frozen=True, slots=True)
class Round:
    """What a round found: pages to send, and mappings that are no more."""

    runs: Runs
    gone: Runs
    statistics: Statistics


@dataclass(frozen=True, slots=True)
class Pages:
    """Pages that were read.

    Attributes:
        data: one page after the other.
        states: a `PageState` for each.
        there_bytes: how many bytes are of pages that are there.
    """

    data: memoryview
    states: memoryview
    there_bytes: int


def share_memory(one: int, other: int) -> bool:
    """Whether two processes work in one memory, as between vfork and execve.

    Raises:
        NativeError: they may not be compared.
    """
    return call(binding()[1].pf_same_memory, one, other) == 1


@dataclass(slots=True)
class ProcessTracker:
    """Tracks one process; a context manager that lets it go. Calls block and release the GIL.

    Args:
        pid: the process, as this process counts.
        mode: how; every mode but AUTO fails where it does not work.

    Raises:
        NativeError: ESRCH, there is no such process; or what is wrong with the mode.
    """

    pid: int
    mode: Mode = Mode.AUTO
    _handle: Any = field(init=False, repr=False)

    def __post_init__(self) -> None:
        ffi, lib = binding()
        self._handle = ffi.NULL
        out = ffi.new("struct pf_tracker **")
        call(lib.pf_tracker_open, out, self.pid, int(self.mode))
        self._handle = out[0]
        self.mode = Mode(lib.pf_tracker_mode(self._handle))

    def __enter__(self) -> ProcessTracker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Takes the protection off and lets go. A second call does nothing."""
        ffi, lib = binding()
        handle, self._handle = self._handle, ffi.NULL
        lib.pf_tracker_close(handle)

    @property
    def reason(self) -> str:
        """Why no better mode is in use, "" if there is none."""
        return text(binding()[1].pf_tracker_reason(self._open()))

    @property
    def stopped_s(self) -> float:
        """How long the process was stopped when the tracker was opened."""
        return binding()[1].pf_tracker_stopped_ns(self._open()) / 1e9

    def round(self) -> Round:
        """What was written since the round before; everything in the first one.

        Raises:
            NativeError: ESRCH, the process has ended; ESTALE, it executed another program.
        """
        return self._round(binding()[1].pf_tracker_round)

    def final(self) -> Round:
        """The same while all tasks of the process are stopped; protects nothing again.

        Raises:
            NativeError: as `round`.
        """
        return self._round(binding()[1].pf_tracker_final)

    def forget(self) -> None:
        """Has the next round give everything: what was sent is lost."""
        binding()[1].pf_tracker_forget(self._open())

    def read(self, runs: Runs) -> Pages:
        """Reads what is to be sent now, and takes it for sent.

        Raises:
            NativeError: ESRCH, the process has ended.
        """
        ffi, lib = binding()
        pages = sum(run.pages for run in runs)
        data = ffi.new("uint8_t[]", max(pages, 1) * PAGE_BYTES)
        states = ffi.new("uint8_t[]", max(pages, 1))
        size = pages * PAGE_BYTES
        there = call(lib.pf_read_pages, self.pid, runs._list, len(runs), data, size, states)
        lib.pf_tracker_note(self._open(), runs._list, len(runs), data, states)
        return Pages(
            memoryview(ffi.buffer(data, size)), memoryview(ffi.buffer(states, pages)), there
        )

    def _round(self, function: Any) -> Round:
        ffi, lib = binding()
        out: Any = ffi.new("struct pf_round *")
        call(function, self._open(), out)
        self.mode = Mode(lib.pf_tracker_mode(self._handle))
        numbers = Statistics(
            number=int(out.number),
            pages=int(out.pages),
            dirty_pages=int(out.dirty_pages),
            zero_pages=int(out.zero_pages),
            suspect_pages=int(out.suspect_pages),
            eligible_bytes=int(out.eligible_bytes),
            registered_bytes=int(out.registered_bytes),
            mapping_count=int(out.mapping_count),
            scan_s=out.scan_ns / 1e9,
            since_s=out.since_ns / 1e9,
        )
        return Round(
            Runs(out.runs, int(out.run_count)), Runs(out.gone, int(out.gone_count)), numbers
        )

    def _open(self) -> Any:
        if not self._handle:
            raise ValueError(f"the tracker of process {self.pid} was closed")
        return self._handle
