# SPDX-License-Identifier: Apache-2.0
"""Stream and store: what a process holds is what the pager would place."""

from __future__ import annotations

import errno
import os
import random
import signal
from pathlib import Path

import pytest

from shim.errors import NativeError
from shim.memory.stream import Sender, pack_runs
from tests.memory.conftest import Ends
from tests.memory.fix_stream import PAGE, Index, Target, pagemap

PAGES = 3000
IMAGE_PID = 7
LAZY, PRESENT = 2, 4


def send_all(sender: Sender, target: Target) -> None:
    runs = pack_runs([(target.address, target.pages)])
    sender.send_runs(target.pid, IMAGE_PID, runs)


def send_image(sender: Sender, directory: Path, entries: list[tuple[int, int, int]]) -> None:
    """CRIU's image, in so far as the store looks at it."""
    directory.mkdir(exist_ok=True)
    (directory / f"pagemap-{IMAGE_PID}.img").write_bytes(pagemap(entries))
    (directory / "core-7.img").write_bytes(os.urandom(300_000))
    sender.send_directory(directory)
    sender.flush()


def compare(ends: Ends, target: Target, without: frozenset[int] = frozenset()) -> None:
    """Every page in the store is as the process has it."""
    index = Index.read(ends.store.directory / f"{IMAGE_PID}.index")
    data = ends.store.directory / f"{IMAGE_PID}.pages"
    memory = target.read()
    for page in set(range(target.pages)) - without:
        at = page * PAGE
        assert index.page(data, target.address + at) == memory[at : at + PAGE], page


@pytest.mark.parametrize("lanes", [1, 2, 5])
def test_the_store_has_what_the_process_has(ends: Ends, tmp_path: Path, lanes: int) -> None:
    dice = random.Random(lanes)
    with Target(PAGES) as target, ends.connect(lanes=lanes) as sender:
        for number in range(6):
            send_all(sender, target)
            assert sender.flush() == ends.store.counts()
            for page in dice.sample(range(PAGES), 40):
                target.tell(f"write {page} {number + 1}" if page % 3 else f"zero {page}")
        os.kill(target.pid, signal.SIGSTOP)
        send_all(sender, target)
        send_image(sender, tmp_path / "image", [(target.address, PAGES, LAZY)])
        sealed = ends.store.seal()
        assert sealed.pages + sealed.zero_pages == PAGES and sealed.zero_pages > 0
        compare(ends, target)
        sent = (tmp_path / "image" / "core-7.img").read_bytes()
        assert (ends.store.images / "core-7.img").read_bytes() == sent


def test_only_what_has_changed_is_sent_again(ends: Ends) -> None:
    with Target(PAGES) as target, ends.connect() as sender:
        send_all(sender, target)
        sender.flush()
        first = sender.progress()
        target.tell("write 100 1")
        target.tell("zero 101")
        send_all(sender, target)
        sender.flush()
        last = sender.progress()
        assert first.pages_sent == PAGES
        assert last.pages_sent - first.pages_sent == 1
        assert last.pages_zero - first.pages_zero == 1
        assert last.pages_unchanged - first.pages_unchanged == PAGES - 2


def test_what_was_written_last_comes_first(ends: Ends, tmp_path: Path) -> None:
    with Target(PAGES) as target, ends.connect() as sender:
        send_all(sender, target)
        sender.flush()
        for page in (2000, 10):
            target.tell(f"write {page} 1")
            send_all(sender, target)
            sender.flush()
        send_image(sender, tmp_path / "image", [(target.address, PAGES, LAZY)])
        assert ends.store.seal().recent_pages == 2
        index = Index.read(ends.store.directory / f"{IMAGE_PID}.index")
        assert index.hot == [(target.address + page * PAGE, 1) for page in (10, 2000)]


def test_unreadable_pages_come_and_unmapped_ones_are_left_out(ends: Ends, tmp_path: Path) -> None:
    with Target(PAGES) as target, ends.connect() as sender:
        target.tell("hide 5")
        target.tell("unmap 70")
        send_all(sender, target)
        assert sender.flush().pages == PAGES - 1
        assert sender.progress().pages_gone == 1
        lazy = [(target.address, 70, LAZY), (target.address + 71 * PAGE, PAGES - 71, LAZY)]
        send_image(sender, tmp_path / "image", lazy)
        ends.store.seal()
        index = Index.read(ends.store.directory / f"{IMAGE_PID}.index")
        data = ends.store.directory / f"{IMAGE_PID}.pages"
        with Path(f"/proc/{target.pid}/mem").open("rb") as memory:
            memory.seek(target.address + 5 * PAGE)
            assert index.page(data, target.address + 5 * PAGE) == memory.read(PAGE)


def test_a_page_that_never_came_is_refused(ends: Ends, tmp_path: Path) -> None:
    with Target(PAGES) as target, ends.connect() as sender:
        sender.send_runs(target.pid, IMAGE_PID, pack_runs([(target.address, PAGES - 1)]))
        send_image(sender, tmp_path / "image", [(target.address, PAGES, LAZY)])
        with pytest.raises(NativeError, match="never came") as caught:
            ends.store.seal()
        assert caught.value.errno_value == errno.ENODATA
        assert f"{target.address + (PAGES - 1) * PAGE:#x}" in str(caught.value)


def test_pages_of_another_process_are_no_substitute(ends: Ends, tmp_path: Path) -> None:
    with Target(16) as target, ends.connect() as sender:
        sender.send_runs(target.pid, IMAGE_PID + 1, pack_runs([(target.address, 16)]))
        send_image(sender, tmp_path / "image", [(target.address, 16, LAZY)])
        with pytest.raises(NativeError, match="never came"):
            ends.store.seal()


def test_what_is_not_confirmed_is_not_sealed(ends: Ends, tmp_path: Path) -> None:
    with Target(16) as target, ends.connect() as sender:
        send_all(sender, target)
        send_image(sender, tmp_path / "image", [(target.address, 16, LAZY)])
        target.tell("write 3 3")
        before = ends.store.counts()
        send_all(sender, target)
        while ends.store.counts() == before:
            pass
        with pytest.raises(NativeError, match="not confirmed"):
            ends.store.seal()


def test_a_sealed_store_takes_no_more(ends: Ends, tmp_path: Path) -> None:
    with Target(16) as target, ends.connect() as sender:
        send_all(sender, target)
        send_image(sender, tmp_path / "image", [(target.address, 16, LAZY)])
        ends.store.seal()
        target.tell("write 3 3")
        with pytest.raises(NativeError, match="sealed") as caught:
            send_all(sender, target)
            sender.flush()
        assert caught.value.errno_value == errno.EREMOTEIO


def test_an_image_with_its_memory_is_refused(ends: Ends, tmp_path: Path) -> None:
    with Target(16) as target, ends.connect() as sender:
        send_all(sender, target)
        send_image(sender, tmp_path / "image", [(target.address, 16, LAZY | PRESENT)])
        with pytest.raises(NativeError, match="not dumped without its memory"):
            ends.store.seal()


def test_a_process_that_is_forgotten_leaves_nothing(ends: Ends) -> None:
    with Target(PAGES) as target, Target(16) as other, ends.connect() as sender:
        send_all(sender, target)
        sender.send_runs(other.pid, 8, pack_runs([(other.address, 16)]))
        sender.forget_process(IMAGE_PID)
        left = sender.flush()
        assert (left.processes, left.pages) == (1, 16)
        assert not (ends.store.directory / f"{IMAGE_PID}.pages").exists()
        # It may come again, as another program.
        send_all(sender, target)
        assert sender.flush().pages == PAGES + 16


def test_a_process_that_has_ended_does_not_end_the_stream(ends: Ends) -> None:
    with Target(16) as target, Target(16) as other, ends.connect() as sender:
        other.process.kill()
        other.process.wait()
        with pytest.raises(NativeError) as caught:
            send_all(sender, other)
        assert caught.value.errno_value == errno.ESRCH
        send_all(sender, target)
        assert sender.flush().pages == 16


def test_zero_runs_need_no_reading(ends: Ends) -> None:
    with Target(16) as target, ends.connect() as sender:
        runs = pack_runs([(target.address, 16), (target.address + 16 * PAGE, 100)])
        runs[16 + 12] = 1  # the second run's flags: PF_RUN_ZERO
        sender.send_runs(target.pid, IMAGE_PID, runs)
        counts = sender.flush()
        assert (counts.pages, counts.zero_pages) == (16, 100)
        assert sender.progress().pages_read == 16


def test_modes_are_private(ends: Ends, tmp_path: Path) -> None:
    with Target(16) as target, ends.connect() as sender:
        send_all(sender, target)
        send_image(sender, tmp_path / "image", [(target.address, 16, LAZY)])
        ends.store.seal()
    for path in (ends.store.directory, *ends.store.directory.rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, path
