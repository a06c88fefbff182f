# SPDX-License-Identifier: Apache-2.0
"""One process after the other: what a tracker sees, and the ten caveats of such tracking."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import Popen

import pytest

from shim import _native
from shim._native_track import PAGE_BYTES, Mode, PageState, ProcessTracker, Round, RunFlag
from shim.errors import MissingFeature, NativeError
from tests.native.track_parts import (
    WORKLOADS,
    Mirror,
    compile_c,
    go_on,
    mappings,
    running,
    stop,
    tell,
)

pytestmark = pytest.mark.root
HUGE_BYTES = 2 << 20
BLOCK_PAGES = 64


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        _native.require()
        _native.prove(_native.Feature.PAGEMAP_SCAN)
    except (MissingFeature, NativeError) as error:
        pytest.skip(str(error))
    return compile_c(WORKLOADS / "obey.c", tmp_path_factory.mktemp("obey") / "obey")


@pytest.fixture
def process(program: Path) -> Iterator[Popen[str]]:
    with running(program) as process:
        yield process


@pytest.fixture
def tracker(process: Popen[str]) -> Iterator[ProcessTracker]:
    with ProcessTracker(process.pid, Mode.WP_ASYNC) as tracker:
        yield tracker


def order(process: Popen[str], line: str) -> int:
    return int(tell(process, line), 16)


def given(found: Round) -> set[int]:
    return {page for run in found.runs for page in range(run.vaddr, run.end, PAGE_BYTES)}


def block(process: Popen[str], pages: int = BLOCK_PAGES) -> set[int]:
    start = order(process, "where")
    return set(range(start, start + pages * PAGE_BYTES, PAGE_BYTES))


def settle(tracker: ProcessTracker) -> None:
    """Everything is given, and a second round taken."""
    for _ in range(2):
        tracker.read(tracker.round().runs)


def assert_exact(process: Popen[str], tracker: ProcessTracker, mirror: Mirror) -> Round:
    stop(process.pid)
    last = tracker.final()
    mirror.take(last)
    assert mirror.differences() == []
    go_on(process.pid)
    return last


def test_the_first_round_gives_what_is_there_and_the_next_what_was_written(
    process: Popen[str], tracker: ProcessTracker
) -> None:
    first = tracker.round()
    assert given(first) >= block(process)
    assert first.statistics.number == 1
    assert first.statistics.since_s == 0.0
    assert first.statistics.registered_share == 0.0
    settle(tracker)
    order(process, "write 3")
    second = tracker.round()
    assert given(second) & block(process) == block(process, 3)
    assert second.statistics.registered_share == 1.0
    assert second.statistics.dirty_pages == second.statistics.pages >= 3
    assert second.statistics.dirty_bytes_per_s > 0
    assert given(tracker.round()) & block(process) == set()


def test_what_was_forgotten_is_given_again(process: Popen[str], tracker: ProcessTracker) -> None:
    settle(tracker)
    tracker.forget()
    assert given(tracker.round()) >= block(process)


def test_a_last_round_may_be_followed_by_others(
    process: Popen[str], tracker: ProcessTracker
) -> None:
    settle(tracker)
    order(process, "write 2")
    written = block(process, 2)
    stop(process.pid)
    assert given(tracker.final()) >= written
    assert given(tracker.final()) >= written
    go_on(process.pid)
    assert given(tracker.round()) >= block(process, 2)
    assert given(tracker.round()) & block(process) == set()


def test_only_what_a_lazy_dump_leaves_out_is_covered(
    process: Popen[str], tracker: ProcessTracker
) -> None:
    shared, private = (int(part, 16) for part in tell(process, "others").split())
    everything = given(tracker.round())
    assert not everything & {shared, private}
    ours = [one for one in mappings(process.pid) if one.is_ours]
    assert all(any(one.start <= page < one.end for one in ours) for page in everything)


def test_pages_without_rights_are_read(process: Popen[str], tracker: ProcessTracker) -> None:
    order(process, "hide")
    start = order(process, "where")
    found = tracker.round()
    read = tracker.read(found.runs)
    at = 0
    for run in found.runs:
        if run.vaddr <= start < run.end:
            at += (start - run.vaddr) // PAGE_BYTES
            break
        at += run.pages
    assert read.states[at] == PageState.READ
    assert read.data[at * PAGE_BYTES] == 1


def test_pages_that_went_away_are_told(process: Popen[str], tracker: ProcessTracker) -> None:
    found = tracker.round()
    order(process, f"discard {BLOCK_PAGES}")
    read = tracker.read(found.runs)
    # Discarded memory reads as zeros, an unmapped one not at all.
    assert read.there_bytes == found.statistics.pages * PAGE_BYTES
    assert bytes(read.states).count(PageState.ZERO) >= BLOCK_PAGES
    settle(tracker)
    old = order(process, "where")
    found = tracker.round()
    tracker.forget()
    found = tracker.round()
    order(process, "move")
    read = tracker.read(found.runs)
    assert read.there_bytes == found.statistics.pages * PAGE_BYTES - _gone(found, old)
    assert any(run.vaddr <= old < run.end for run in tracker.round().gone)


def _gone(found: Round, start: int) -> int:
    end = start + BLOCK_PAGES * PAGE_BYTES
    return sum(max(0, min(run.end, end) - max(run.vaddr, start)) for run in found.runs)


def test_caveat_1_the_target_keeps_no_userfaultfd(
    process: Popen[str], tracker: ProcessTracker
) -> None:
    tracker.round()
    open_files = [str(one.readlink()) for one in Path(f"/proc/{process.pid}/fd").iterdir()]
    assert not [name for name in open_files if "userfaultfd" in name]
    assert tracker.stopped_s > 0


def test_caveat_2_a_forked_child_is_free_and_tracked_as_a_new_process(
    process: Popen[str], tracker: ProcessTracker
) -> None:
    settle(tracker)
    child = order(process, "fork")
    assert " uw" not in Path(f"/proc/{child}/smaps").read_text("utf-8")
    with ProcessTracker(child, Mode.WP_ASYNC) as other:
        mirror = Mirror(other)
        mirror.take(other.round())
        stop(child)
        mirror.take(other.final())
        assert mirror.differences() == []
    # The parent writes its own copies now, which is seen.
    order(process, "write 5")
    assert given(tracker.round()) >= block(process, 5)


@pytest.mark.parametrize("change", ["move", "replace", "heap", "discard 9", "huge"])
def test_caveat_3_what_is_mapped_anew_is_all_dirty(
    process: Popen[str], tracker: ProcessTracker, change: str
) -> None:
    mirror = Mirror(tracker)
    mirror.take(tracker.round())
    mirror.take(tracker.round())
    order(process, change)
    order(process, "write 7")
    last = assert_exact(process, tracker, mirror)
    assert given(last) >= block(process, 7)
    mirror.take(tracker.round())
    order(process, "write 2")
    assert_exact(process, tracker, mirror)


def test_caveat_4_a_program_that_uses_userfaultfd_itself_is_hashed(
    process: Popen[str],
) -> None:
    watched = order(process, "userfaultfd")
    with pytest.raises(NativeError, match="itself") as caught:
        ProcessTracker(process.pid, Mode.WP_ASYNC)
    assert caught.value.errno_value == errno.EBUSY
    with ProcessTracker(process.pid) as tracker:
        assert tracker.mode is Mode.HASH
        assert "uses userfaultfd itself" in tracker.reason
        mirror = Mirror(tracker)
        found = tracker.round()
        assert watched not in given(found)  # it would wait for ever
        mirror.take(found)
        order(process, "write 3")
        assert_exact(process, tracker, mirror)


def test_caveat_4_a_program_that_begins_to_use_it_is_hashed_from_then_on(
    process: Popen[str], tracker: ProcessTracker
) -> None:
    mirror = Mirror(tracker)
    mirror.take(tracker.round())
    order(process, "userfaultfd")
    found = tracker.round()
    assert tracker.mode is Mode.HASH
    assert given(found) >= block(process)
    mirror.take(found)
    assert given(tracker.round()) & block(process) == set()
    order(process, "write 3")
    assert_exact(process, tracker, mirror)


def test_caveat_5_a_pinned_buffer_is_under_suspicion(
    process: Popen[str], tracker: ProcessTracker
) -> None:
    mirror = Mirror(tracker)
    pinned = order(process, "pin")
    if not pinned:
        pytest.skip("io_uring is not allowed here")
    mirror.take(tracker.round())
    mirror.take(tracker.round())
    order(process, "fixed")
    # Nothing else sees it: this is what the suspicion is for.
    assert pinned + PAGE_BYTES not in given(tracker.round())
    last = assert_exact(process, tracker, mirror)
    assert last.statistics.suspect_pages > 0
    assert {pinned + PAGE_BYTES, pinned + 2 * PAGE_BYTES} <= given(last)


def test_caveat_5_files_past_the_page_cache_have_pages_given_twice(
    process: Popen[str], tracker: ProcessTracker, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"x" * PAGE_BYTES)
    settle(tracker)
    order(process, f"direct {tmp_path / 'file'}")
    order(process, "write 4")
    assert given(tracker.round()) >= block(process, 4)
    assert given(tracker.round()) & block(process) == set()
    whole, written = block(process), block(process, 4)
    stop(process.pid)
    last = tracker.final()
    suspects = {
        page
        for run in last.runs
        if run.flags & RunFlag.SUSPECT
        for page in range(run.vaddr, run.end, PAGE_BYTES)
    }
    assert suspects & whole == written
    go_on(process.pid)
    # Once more after as long as an input may take, and then no more.
    again = set[int]()
    deadline = time.monotonic() + 30
    while not again & block(process, 4) and time.monotonic() < deadline:
        time.sleep(0.5)
        again = given(tracker.round())
    assert again & block(process) == block(process, 4)


def test_caveat_6_the_kernel_writing_for_the_program_is_seen(
    process: Popen[str], tracker: ProcessTracker
) -> None:
    settle(tracker)
    assert order(process, "read") == 2 * PAGE_BYTES
    start = order(process, "where")
    assert given(tracker.round()) & block(process) == {
        start + 5 * PAGE_BYTES,
        start + 6 * PAGE_BYTES,
    }


@pytest.mark.parametrize("filter_order", ["forbid", "forbid-to-death"])
def test_caveat_7_a_seccomp_filter_against_userfaultfd_is_suspended(
    process: Popen[str], filter_order: str
) -> None:
    order(process, filter_order)
    with ProcessTracker(process.pid, Mode.WP_ASYNC) as tracker:
        settle(tracker)
        order(process, "write 3")
        assert given(tracker.round()) >= block(process, 3)
    status = Path(f"/proc/{process.pid}/status").read_text("utf-8")
    assert "Seccomp:\t2" in status


def test_caveat_7_no_privilege_is_needed_in_the_target(program: Path) -> None:
    # A user and a pid namespace of its own, where it is nobody and has no capabilities.
    namespaces = ("unshare", "--user", "--pid", "--fork", "--kill-child")
    with running(*namespaces, program) as outer:
        (child,) = Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text().split()
        with ProcessTracker(int(child), Mode.WP_ASYNC) as tracker:
            settle(tracker)
            order(outer, "write 3")
            assert given(tracker.round()) >= block(outer, 3)


def test_caveat_8_a_huge_page_is_split_by_the_first_write(
    process: Popen[str], tracker: ProcessTracker
) -> None:
    start = order(process, "huge")
    found = tracker.round()
    assert given(found) >= set(range(start, start + HUGE_BYTES, PAGE_BYTES))
    settle(tracker)
    order(process, "write 1")
    assert given(tracker.round()) & set(range(start, start + HUGE_BYTES, PAGE_BYTES)) == {start}


def test_caveat_9_the_best_mode_that_works_is_taken(process: Popen[str]) -> None:
    with ProcessTracker(process.pid) as tracker:
        assert tracker.mode is Mode.WP_ASYNC
        assert tracker.reason == ""
        assert tracker.stopped_s > 0
    with ProcessTracker(process.pid, Mode.HASH) as tracker:
        assert tracker.mode is Mode.HASH
        assert tracker.stopped_s == 0


def test_caveat_10_the_tracked_share_is_told(process: Popen[str], tracker: ProcessTracker) -> None:
    settle(tracker)
    order(process, "huge")
    numbers = tracker.round().statistics
    assert 0.0 < numbers.registered_share < 1.0
    assert numbers.pages - numbers.dirty_pages >= HUGE_BYTES // PAGE_BYTES
    assert tracker.round().statistics.registered_share == 1.0


def test_the_end_of_a_process_is_told(process: Popen[str], tracker: ProcessTracker) -> None:
    tracker.round()
    tell(process, "exec")  # answers "ready"
    with pytest.raises(NativeError, match="another program") as caught:
        tracker.round()
    assert caught.value.errno_value == errno.ESTALE
    with ProcessTracker(process.pid, Mode.WP_ASYNC) as other:
        assert given(other.round()) >= block(process)
        process.kill()
        process.wait()
        with pytest.raises(NativeError, match="has ended") as caught:
            other.round()
        assert caught.value.errno_value == errno.ESRCH
    with pytest.raises(NativeError) as caught:
        ProcessTracker(process.pid)
    assert caught.value.errno_value == errno.ESRCH


def test_a_second_tracker_falls_to_hashing(process: Popen[str], tracker: ProcessTracker) -> None:
    with ProcessTracker(process.pid) as other:
        assert other.mode is Mode.HASH
        assert "userfaultfd" in other.reason
    order(process, "write 1")
    assert given(tracker.round()) >= block(process, 1)
    assert tracker.mode is Mode.WP_ASYNC
