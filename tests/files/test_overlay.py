# SPDX-License-Identifier: Apache-2.0
"""Writable layers between two real overlays of one image: what both containers see is compared."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shim.errors import MissingFeature
from shim.files import places
from shim.files.applier import Applier
from shim.files.reading import read_frames
from shim.files.tree import Tree, difference
from tests.files.changes import Program
from tests.files.looking import differences, look
from tests.files.transfer import OneByOne, Transfer

FAST = Path("/dev/shm")


@dataclass
class Mounted:
    """An overlay over a shared lower directory."""

    upper: Path
    merged: Path

    @property
    def tree(self) -> Tree:
        return Tree(self.upper, is_overlay=True)


@contextmanager
def overlay(base: Path, lower: Path, name: str, options: str = "") -> Iterator[Mounted]:
    made = [base / name / part for part in ("upper", "work", "merged")]
    for one in made:
        one.mkdir(parents=True)
    upper, work, merged = made
    given = f"lowerdir={lower},upperdir={upper},workdir={work}{options}"
    argv = ["mount", "-t", "overlay", "overlay", "-o", given, str(merged)]
    if subprocess.run(argv, check=False, capture_output=True).returncode:
        pytest.skip("no overlay can be mounted here")
    try:
        yield Mounted(upper, merged)
    finally:
        subprocess.run(["umount", "-l", str(merged)], check=True)


@contextmanager
def image(seed: int) -> Iterator[tuple[Path, Path]]:
    """A place, and in it a lower directory that an image might have."""
    base = Path(tempfile.mkdtemp(prefix="podferry-overlay-", dir=FAST))
    try:
        (base / "lower").mkdir()
        Program(base / "lower", seed).run(60)
        yield base, base / "lower"
    finally:
        shutil.rmtree(base)


@given(seed=st.integers(0, 2**32), rounds=st.lists(st.integers(0, 2**32), min_size=1, max_size=3))
@settings(max_examples=60, deadline=None)
def test_two_containers_of_one_image_see_the_same(seed: int, rounds: list[int]) -> None:
    with (
        image(seed) as (base, lower),
        overlay(base, lower, "source") as source,
        overlay(base, lower, "target") as target,
    ):
        transfer = Transfer(source.tree, target.merged, target.tree)
        for one in rounds:
            Program(source.merged, one).run(40)
            transfer.round()
            assert differences(look(source.merged), look(target.merged)) == []


@given(seeds=st.lists(st.integers(0, 2**32), min_size=3, max_size=3), cut=st.floats(0, 1))
@settings(max_examples=30, deadline=None)
def test_a_layer_is_completed_from_the_inventory(seeds: list[int], cut: float) -> None:
    with (
        image(seeds[0]) as (base, lower),
        overlay(base, lower, "source") as source,
        overlay(base, lower, "target") as target,
    ):
        transfer = Transfer(source.tree, target.merged, target.tree)
        Program(source.merged, seeds[1]).run(40)
        transfer.round()
        Program(source.merged, seeds[2]).run(40)
        frames = OneByOne.of(source.tree, difference(transfer.reached, source.tree.scan()))
        with Applier(target.merged, 1 << 30, 1 << 20, devices=True) as applier:
            for frame in frames[: int(cut * len(frames))]:
                applier.feed(frame)
        transfer.reached = target.tree.inventory()
        transfer.round()
        assert differences(look(source.merged), look(target.merged)) == []


def test_an_overlay_that_redirects_directories_is_refused(place: Path) -> None:
    (place / "lower/directory/below").mkdir(parents=True)
    with overlay(place, place / "lower", "source", ",redirect_dir=on") as source:
        (source.merged / "directory").rename(source.merged / "renamed")
        plan = difference(None, source.tree.scan())
        with pytest.raises(MissingFeature, match="redirects"):
            list(read_frames(source.tree, plan))


def test_an_overlay_with_metadata_alone_is_refused(place: Path) -> None:
    (place / "lower").mkdir()
    (place / "lower/file").write_bytes(b"x" * 100)
    with overlay(place, place / "lower", "source", ",metacopy=on") as source:
        os.chmod(source.merged / "file", 0o600)
        plan = difference(None, source.tree.scan())
        with pytest.raises(MissingFeature, match="metacopy"):
            list(read_frames(source.tree, plan))


def test_whiteouts_that_are_files_count_as_such(place: Path) -> None:
    upper = place / "upper"
    upper.mkdir()
    (upper / "directory").mkdir()
    os.setxattr(upper / "directory", "trusted.overlay.opaque", b"x")
    (upper / "directory/hidden").touch()
    os.setxattr(upper / "directory/hidden", "trusted.overlay.whiteout", b"y")
    (upper / "directory/empty").touch()
    entries = {one.path: one for one in Tree(upper, is_overlay=True).scan()}
    assert entries[b"directory/hidden"].is_whiteout
    assert not entries[b"directory/empty"].is_whiteout


def test_a_root_that_is_no_overlay_is_refused() -> None:
    table = places.mounts.parse("1 0 0:1 / / rw - ext4 /dev/vda rw\n")
    with pytest.raises(MissingFeature, match="ext4"):
        places.layer_tree(table)


def test_the_layer_leaves_out_what_is_mounted() -> None:
    table = places.mounts.parse(
        "1 0 0:1 / / rw - overlay overlay rw,lowerdir=/l,upperdir=/u/fs,workdir=/w\n"
        "2 1 0:2 / /etc/hosts rw - ext4 /dev/vda rw\n"
    )
    tree = places.layer_tree(table)
    assert (tree.root, tree.is_overlay) == (Path("/u/fs"), True)
    assert tree.exclude == {b"etc/hosts"}
