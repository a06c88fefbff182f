# SPDX-License-Identifier: Apache-2.0
"""Parts of the tracker's tests: programs to track, and a second opinion on their memory."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from shim._native_track import PAGE_BYTES, PageState, ProcessTracker, Round, RunFlag

WORKLOADS = Path(__file__).parents[1] / "workloads"
DEADLINE_S = 20.0
# Documentation/admin-guide/mm/pagemap.rst: present, swapped out.
THERE = 3 << 62


def compile_c(source: Path, target: Path) -> Path:
    """Builds a program; skips the test where there is no compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    flags = ["-D_GNU_SOURCE", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread"]
    subprocess.run([compiler, *flags, "-o", str(target), str(source)], check=True)
    return target


@dataclass(frozen=True, slots=True)
class Mapping:
    """A line of maps."""

    start: int
    end: int
    rights: str
    inode: int
    name: str

    @property
    def is_ours(self) -> bool:
        """Whether CRIU's lazy dump leaves it out, locked ones aside."""
        return (
            self.rights[3] == "p"
            and self.inode == 0
            and (self.name in ("", "[heap]", "[stack]") or self.name.startswith("[anon:"))
        )


def mappings(pid: int) -> list[Mapping]:
    """What maps says."""
    found = []
    for line in Path(f"/proc/{pid}/maps").read_text("utf-8").splitlines():
        span, rights, _, _, inode, *name = line.split(maxsplit=5)
        start, end = (int(part, 16) for part in span.split("-"))
        found.append(Mapping(start, end, rights, int(inode), name[0] if name else ""))
    return found


def present_pages(pid: int, mapping: Mapping) -> list[int]:
    """Addresses of the pages that are there, by the old pagemap."""
    with Path(f"/proc/{pid}/pagemap").open("rb", buffering=0) as pagemap:
        pagemap.seek(mapping.start // PAGE_BYTES * 8)
        raw = pagemap.read((mapping.end - mapping.start) // PAGE_BYTES * 8)
    entries = memoryview(raw).cast("Q")
    return [
        mapping.start + number * PAGE_BYTES for number, entry in enumerate(entries) if entry & THERE
    ]


def memory(pid: int) -> dict[int, bytes]:
    """Every page that is there and can be read, of the mappings that are ours."""
    found = {}
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as mem:
        for mapping in mappings(pid):
            if not mapping.is_ours:
                continue
            for vaddr in present_pages(pid, mapping):
                try:
                    mem.seek(vaddr)
                    page = mem.read(PAGE_BYTES)
                except OSError:
                    continue  # a guard page
                if len(page) == PAGE_BYTES:
                    found[vaddr] = page
    return found


def stop(pid: int) -> None:
    """Stops a process, and waits until all its threads are."""
    os.kill(pid, signal.SIGSTOP)
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        states = set()
        for task in Path(f"/proc/{pid}/task").iterdir():
            states.add((task / "stat").read_text("utf-8").rsplit(")", 1)[1].split()[0])
        if states <= {"T", "t", "Z", "X"}:
            return
        time.sleep(0.001)
    pytest.fail("the process does not stop")


def go_on(pid: int) -> None:
    """Lets a stopped process run."""
    os.kill(pid, signal.SIGCONT)


ZEROS = bytes(PAGE_BYTES)


@dataclass(slots=True)
class Mirror:
    """What a target would have received."""

    tracker: ProcessTracker
    pages: dict[int, bytes] = field(default_factory=dict)

    def take(self, found: Round) -> None:
        """Reads a round's pages, as a sender does."""
        read = self.tracker.read(found.runs)
        number = 0
        for run in found.runs:
            for vaddr in range(run.vaddr, run.end, PAGE_BYTES):
                at = number * PAGE_BYTES
                number += 1
                if run.flags & RunFlag.ZERO:
                    self.pages[vaddr] = ZEROS
                elif read.states[number - 1] != PageState.GONE:
                    self.pages[vaddr] = bytes(read.data[at : at + PAGE_BYTES])
        for run in found.gone:
            for vaddr in [one for one in self.pages if run.vaddr <= one < run.end]:
                del self.pages[vaddr]

    def differences(self) -> list[str]:
        """Pages of the stopped process that are not what the mirror says; what is only in the
        mirror does not count, as CRIU's pagemap says which pages there are."""
        return [
            f"{vaddr:#x} {'differs' if vaddr in self.pages else 'was never sent'}"
            for vaddr, page in memory(self.tracker.pid).items()
            if self.pages.get(vaddr) != page
        ]


@contextmanager
def running(*command: str | Path) -> Iterator[subprocess.Popen[str]]:
    """A program that says "ready" on a line of its own; ended afterwards, whatever happens."""
    process = subprocess.Popen(
        [str(part) for part in command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "ready"
        yield process
    finally:
        process.kill()
        process.communicate()


def tell(process: subprocess.Popen[str], line: str) -> str:
    """Gives a program a line and returns its answer."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()
    answer = select.poll()  # select.select ends at descriptor 1024
    answer.register(process.stdout, select.POLLIN)
    assert answer.poll(DEADLINE_S * 1000), f"no answer to {line!r}"
    return process.stdout.readline().strip()
