# SPDX-License-Identifier: Apache-2.0
"""The tracker beside the real CRIU: it covers what a lazy dump leaves out, and a move is right."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shim._native_track import PAGE_BYTES, Mode, ProcessTracker, Round
from tests.native.track_parts import ZEROS, Mirror, memory
from tests.node import pager_parts
from tests.node.fix_store import Mover, host_pid
from tests.testbed.node import Node

# criu/include/pagemap.h of CRIU 4.2
PE_LAZY = 2
VARINT, BYTES = 0, 2
VADDR, COMPAT_PAGES, FLAGS, PAGES = 1, 2, 4, 5


@pytest.fixture(scope="module", autouse=True)
def binaries() -> None:
    """Built before a node waits for them."""
    pager_parts.build()


def fields(message: bytes) -> Iterator[tuple[int, int]]:
    """The numbers of a protobuf message that has nothing else."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                return value

    while at < len(message):
        key = varint()
        assert key & 7 == VARINT
        yield key >> 3, varint()


def lazy_pages(pagemap: Path) -> set[int]:
    """What a dump has left out; the format is in docs/pager.md."""
    raw = pagemap.read_bytes()
    at, found, head = 8, set[int](), True
    while at < len(raw):
        (size,) = struct.unpack_from("<I", raw, at)
        entry = dict(fields(raw[at + 4 : at + 4 + size]))
        at += 4 + size
        if not head and entry.get(FLAGS, 0) & PE_LAZY:
            pages = entry.get(PAGES, entry.get(COMPAT_PAGES, 0))
            start = entry[VADDR]
            found.update(range(start, start + pages * PAGE_BYTES, PAGE_BYTES))
        head = False
    return found


def send(mover: Mover, found: Round) -> None:
    mover.sender.send_runs(host_pid(mover.node, mover.pid), mover.pid, bytes(found.runs.buffer()))
    mover.sender.flush()


@pytest.mark.parametrize("mode", [Mode.WP_ASYNC, Mode.HASH])
def test_rounds_and_a_lazy_dump_make_a_whole_process(
    node: Node, tmp_path: Path, mode: Mode
) -> None:
    with (
        Mover(node, 24, tmp_path) as mover,
        ProcessTracker(host_pid(node, mover.pid), mode) as tracker,
    ):
        mirror = Mirror(tracker)
        mover.go()
        for _ in range(5):
            found = tracker.round()
            send(mover, found)
            mirror.take(found)
            time.sleep(0.02)
        mover.dump_lazily()
        found = tracker.final()
        send(mover, found)
        mirror.take(found)
        lazy = lazy_pages(mover.node.path(f"{mover.images}/pagemap-{mover.pid}.img"))
        there = memory(tracker.pid)
        assert lazy
        assert [hex(page) for page in lazy if mirror.pages.get(page) != there[page]] == []
        # The rest CRIU dumps itself, the stack pointers' pages, or leaves out, the zero page.
        rest = [page for page in there if page not in lazy and there[page] != ZEROS]
        threads = len(list(Path(f"/proc/{tracker.pid}/task").iterdir()))
        assert len(rest) <= threads
        mover.sender.send_directory(mover.node.path(mover.images))
        mover.sender.flush()
        mover.store.seal()
        mover.end_source()
        pager = mover.start_pager()
        mover.restore()
        assert mover.finish(pager) == 0, pager.log
        assert mover.results() == ["ok"]
