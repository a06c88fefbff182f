# SPDX-License-Identifier: Apache-2.0
"""Trees carried in rounds: what arrives is compared by a walk that knows nothing of the code."""

from __future__ import annotations

import mmap
import os
import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shim.core import trees
from shim.core.trees import Content
from shim.files.applier import Applier
from shim.files.places import mapped_files
from shim.files.tree import RACY_NS, Tree, difference, digest
from tests.files.changes import BLOCK, Program
from tests.files.looking import differences, look
from tests.files.transfer import QUOTA_BYTES, QUOTA_ENTRIES, OneByOne, Transfer

# Property tests make thousands of files; a disk's journal would make them wait.
FAST = Path("/dev/shm")


@pytest.fixture
def ends(place: Path) -> tuple[Path, Path]:
    source, target = place / "source", place / "target"
    source.mkdir()
    target.mkdir()
    return source, target


def settle() -> None:
    """Waits until nothing that was done before counts as just changed."""
    time.sleep(2 * RACY_NS / 1e9)


def require_equal(source: Path, target: Path) -> None:
    assert differences(look(source), look(target)) == []
    assert digest(source) == digest(target)


@given(seeds=st.lists(st.integers(0, 2**32), min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_whatever_programs_do_arrives_round_by_round(seeds: list[int]) -> None:
    base = FAST / f"podferry-files-{os.getpid()}"
    shutil.rmtree(base, ignore_errors=True)
    (base / "source").mkdir(parents=True)
    (base / "target").mkdir()
    try:
        transfer = Transfer(Tree(base / "source"), base / "target")
        for seed in seeds:
            Program(base / "source", seed).run(40)
            transfer.round()
            assert differences(look(base / "source"), look(base / "target")) == []
        assert digest(base / "source") == digest(base / "target")
    finally:
        shutil.rmtree(base)


@given(first=st.integers(0, 2**32), second=st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_the_native_comparison_is_the_same_as_the_pure_one(first: int, second: int) -> None:
    base = FAST / f"podferry-files-{os.getpid()}"
    shutil.rmtree(base, ignore_errors=True)
    base.mkdir(parents=True)
    try:
        Program(base, first).run(40)
        old = Tree(base).scan()
        Program(base, second).run(20)
        new = Tree(base).scan()
        inodes = frozenset(entry.inode for entry in list(new)[::3])
        assert list(new) == sorted(new, key=lambda one: trees.order(one.path))
        mapped = [(base.stat().st_dev, inode) for inode in inodes]
        assert difference(old, new, mapped) == trees.difference(old, new, None, inodes)
        assert b"".join(trees.packed(entry) for entry in new) == new.records
    finally:
        shutil.rmtree(base)


@given(seeds=st.lists(st.integers(0, 2**32), min_size=2, max_size=2), cut=st.floats(0, 1))
@settings(max_examples=40, deadline=None)
def test_a_stream_that_breaks_off_is_completed_from_the_inventory(
    seeds: list[int], cut: float
) -> None:
    base = FAST / f"podferry-files-{os.getpid()}"
    shutil.rmtree(base, ignore_errors=True)
    source, target = base / "source", base / "target"
    source.mkdir(parents=True)
    target.mkdir()
    try:
        transfer = Transfer(Tree(source), target)
        Program(source, seeds[0]).run(60)
        transfer.round()
        Program(source, seeds[1]).run(60)
        plan = difference(transfer.reached, Tree(source).scan())
        frames = OneByOne.of(Tree(source), plan)
        with Applier(target, QUOTA_BYTES, QUOTA_ENTRIES, devices=True) as applier:
            for frame in frames[: int(cut * len(frames))]:
                applier.feed(frame)
        transfer.reached = Tree(target).inventory()
        transfer.round()
        assert differences(look(source), look(target)) == []
    finally:
        shutil.rmtree(base)


def test_a_second_round_reads_and_sends_nothing(ends: tuple[Path, Path]) -> None:
    source, target = ends
    Program(source, 1).run(200)
    settle()
    transfer = Transfer(Tree(source), target)
    transfer.round()
    plan, figures = transfer.round()
    assert plan.is_empty
    assert figures.read_bytes == 0
    require_equal(source, target)


def test_of_a_large_file_only_the_changed_block_travels(ends: tuple[Path, Path]) -> None:
    source, target = ends
    (source / "large").write_bytes(os.urandom(100 * BLOCK))
    transfer = Transfer(Tree(source), target)
    transfer.round()
    with (source / "large").open("r+b") as file:
        file.seek(50 * BLOCK + 3)
        file.write(b"changed")
        file.seek(0, os.SEEK_END)
        file.write(b"appended")
    _, figures = transfer.round()
    assert figures.sent_bytes == BLOCK + len(b"appended")
    require_equal(source, target)


def test_holes_stay_holes(ends: tuple[Path, Path]) -> None:
    source, target = ends
    with (source / "sparse").open("wb") as file:
        file.truncate(1 << 30)
        for at in (0, 5 << 20, (1 << 30) - 5):
            file.seek(at)
            file.write(b"data!")
    transfer = Transfer(Tree(source), target)
    _, figures = transfer.round()
    assert figures.sent_bytes <= 3 * BLOCK
    assert (target / "sparse").stat().st_blocks * 512 <= 3 * BLOCK
    require_equal(source, target)
    with (source / "sparse").open("r+b") as file:
        file.seek(5 << 20)
        file.write(bytes(5))
    transfer.round()
    assert (target / "sparse").stat().st_blocks * 512 <= 2 * BLOCK
    require_equal(source, target)


def test_a_mapped_file_is_compared_by_content(ends: tuple[Path, Path]) -> None:
    source, target = ends
    path = source / "mapped"
    path.write_bytes(bytes(4 * BLOCK))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[0] = 1
        settle()
        transfer = Transfer(Tree(source), target)
        transfer.round(mapped_files([os.getpid()]))
        before = path.stat().st_ctime_ns
        mapped[1] = 2  # the page is dirty already: no time moves
        assert path.stat().st_ctime_ns == before
        # Also where it is not mapped any more: it was, when it was read last.
        _, figures = transfer.round()
        assert figures.sent_bytes == BLOCK
    require_equal(source, target)


def test_on_a_tmpfs_every_file_is_compared(ends: tuple[Path, Path]) -> None:
    source, target = ends
    (source / "file").write_bytes(os.urandom(BLOCK))
    settle()
    transfer = Transfer(Tree(source, is_volatile=True), target)
    transfer.round()
    plan, figures = transfer.round()
    assert [type(one) for one in plan.made] == [Content]
    assert (figures.read_bytes, figures.sent_bytes) == (BLOCK, 0)


def test_a_file_that_moved_is_not_sent_again(ends: tuple[Path, Path]) -> None:
    source, target = ends
    (source / "logs").mkdir()
    for number in range(3):
        (source / f"logs/log.{number}").write_bytes(os.urandom(3 * BLOCK))
    transfer = Transfer(Tree(source), target)
    transfer.round()
    for number in (2, 1, 0):
        (source / f"logs/log.{number}").rename(source / f"logs/log.{number + 1}")
    (source / "logs").rename(source / "old")
    (source / "logs").mkdir()
    (source / "logs/log.0").write_bytes(b"fresh")
    _, figures = transfer.round()
    assert figures.sent_bytes == len(b"fresh")
    require_equal(source, target)
    # Where nothing changes in the root, its time must not tell of what waited there.
    (source / "old/log.3").rename(source / "logs/log.3")
    transfer.round()
    require_equal(source, target)


def test_names_of_one_file_stay_one_file(ends: tuple[Path, Path]) -> None:
    source, target = ends
    (source / "z").write_bytes(b"content")
    transfer = Transfer(Tree(source), target)
    transfer.round()
    # As CRIU does in a dump: a further name, which comes earlier in the order.
    os.link(source / "z", source / "link_remap.1")
    _, figures = transfer.round()
    assert figures.sent_bytes == 0
    require_equal(source, target)
    (source / "link_remap.1").unlink()
    transfer.round()
    require_equal(source, target)
    # A name that is another file now must not change what the others show.
    os.link(source / "z", source / "a")
    transfer.round()
    (source / "new").write_bytes(b"different")
    (source / "new").rename(source / "a")
    transfer.round()
    require_equal(source, target)


def test_access_lists_and_capabilities_arrive(ends: tuple[Path, Path]) -> None:
    source, target = ends
    (source / "program").write_bytes(b"#!")
    (source / "program").chmod(0o6755)
    os.chown(source / "program", 1000, 1000)
    (source / "program").chmod(0o6755)
    acl = bytes.fromhex(
        "02000000" "01000600ffffffff" "02000400e8030000" "04000400ffffffff"
        "10000400ffffffff" "20000000ffffffff"
    )  # fmt: skip
    os.setxattr(source / "program", "system.posix_acl_access", acl)
    os.setxattr(
        source / "program",
        "security.capability",
        bytes.fromhex("0100000200040000000000000000000000000000"),
    )
    (source / "directory").mkdir()
    os.setxattr(source / "directory", "system.posix_acl_default", acl)
    Transfer(Tree(source), target).round()
    require_equal(source, target)
    assert "security.capability" in os.listxattr(target / "program")


def test_excluded_paths_stay_as_they_are_at_both_ends(ends: tuple[Path, Path]) -> None:
    source, target = ends
    exclude = frozenset({b"etc/hosts", b"mnt"})
    for root, text in ((source, "source"), (target, "target")):
        (root / "etc").mkdir()
        (root / "mnt").mkdir()
        (root / "etc/hosts").write_text(text)
        (root / "mnt/file").write_text(text)
    (source / "etc/own").write_text("x")
    transfer = Transfer(Tree(source, exclude=exclude), target, Tree(target, exclude=exclude))
    transfer.round()
    assert (target / "etc/hosts").read_text() == "target"
    assert (target / "mnt/file").read_text() == "target"
    assert (target / "etc/own").read_text() == "x"


def test_deep_and_long_paths(ends: tuple[Path, Path]) -> None:
    source, target = ends
    here = os.open(source, os.O_RDONLY)
    for _ in range(60):
        os.mkdir(b"d" * 250, dir_fd=here)
        below = os.open(b"d" * 250, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("leaf", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)
    Transfer(Tree(source), target).round()
    assert Tree(target).scan().entries == 62
    subprocess.run(["rm", "-rf", source / ("d" * 250), target / ("d" * 250)], check=True)


def test_a_tree_that_changes_all_the_time_settles_once_it_rests(ends: tuple[Path, Path]) -> None:
    source, target = ends
    stop = threading.Event()
    failures: list[BaseException] = []

    def write() -> None:
        try:
            seed = 0
            while not stop.is_set():
                Program(source, seed).run(30)
                seed += 1
        except BaseException as error:
            failures.append(error)

    writer = threading.Thread(target=write)
    transfer = Transfer(Tree(source), target)
    writer.start()
    try:
        for _ in range(40):
            transfer.round(prove=False)
    finally:
        stop.set()
        writer.join()
    assert not failures
    transfer.round()
    require_equal(source, target)


@given(seed=st.integers(0, 2**32), names=st.lists(st.integers(0, 2**16), max_size=5))
@settings(max_examples=60, deadline=None)
def test_a_rescan_sees_what_a_scan_sees_of_new_and_removed_names(
    seed: int, names: list[int]
) -> None:
    base = FAST / f"podferry-files-{os.getpid()}"
    shutil.rmtree(base, ignore_errors=True)
    base.mkdir(parents=True)
    try:
        Program(base, seed).run(60)
        if seed % 2:
            settle()
        frozen = Tree(base).scan()
        linked = [one for one in frozen if one.path and not one.is_directory]
        for at, number in enumerate(names):
            if linked:
                path = os.path.join(os.fsencode(base), linked[number % len(linked)].path)
                name = os.path.join(os.path.dirname(path), b"link_remap.%d" % at)
                os.link(path, name, follow_symlinks=False)
                if number % 3 == 0:
                    os.unlink(path)
                    linked.pop(number % len(linked))
        assert list(Tree(base).rescan(frozen)) == list(Tree(base).scan())
    finally:
        shutil.rmtree(base)
