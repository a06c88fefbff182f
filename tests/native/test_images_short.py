# SPDX-License-Identifier: Apache-2.0
"""Pagemaps: short ones for a lazy restore, and what CRIU was kept from dumping."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from shim._native_images import add_left_out, make_view, shorten
from shim.errors import NativeError, PodferryError

pytestmark = pytest.mark.usefixtures("extension")

PAGE = 4096
LAZY, EAGER = 2 | 4, 4
ELSEWHERE = 2  # a dump that left lazy pages to somebody else
HEAD = struct.pack("<II", 0x54564319, 0x56084025)

Entry = tuple[int, int, int]  # page number, pages, flags


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def message(*fields: tuple[int, int]) -> bytes:
    body = b"".join(varint(number << 3) + varint(value) for number, value in fields)
    return struct.pack("<I", len(body)) + body


def pagemap(entries: list[Entry]) -> bytes:
    parts = [message((1, 7))]
    parts += [message((1, at * PAGE), (2, 0), (4, flags), (5, n)) for at, n, flags in entries]
    return HEAD + b"".join(parts)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    directory = tmp_path / "images"
    directory.mkdir()
    (directory / "inventory.img").write_bytes(b"inventory")
    (directory / "pagemap-shmem-5.img").write_bytes(b"shared memory has a form of its own")
    (directory / "dump.log").write_bytes(b"no image")
    return directory


def shortened(images: Path, entries: list[Entry]) -> bytes:
    (images / "pagemap-1.img").write_bytes(pagemap(entries))
    make_view(images, images / "lazy")
    return (images / "lazy" / "pagemap-1.img").read_bytes()


@pytest.mark.parametrize("flags", [LAZY, ELSEWHERE])
def test_lazy_neighbours_become_one_entry_of_as_many_pages(images: Path, flags: int) -> None:
    entries = [(16, 17, flags), (36, 17, flags), (1 << 34, 1, flags)]
    assert shortened(images, entries) == pagemap([(16, 35, flags)])


def test_what_criu_restores_itself_keeps_its_place_in_the_pages_file(images: Path) -> None:
    entries = [(1, 2, LAZY), (9, 3, LAZY), (20, 1, EAGER), (21, 4, EAGER), (30, 5, LAZY)]
    assert shortened(images, entries) == pagemap(
        [(1, 5, LAZY), (20, 1, EAGER), (21, 4, EAGER), (30, 5, LAZY)]
    )


def test_pages_of_a_parent_are_left_alone(images: Path) -> None:
    entries = [(1, 2, LAZY | 1), (9, 3, LAZY | 1)]
    assert shortened(images, entries) == pagemap(entries)


def test_all_other_images_are_the_same_files(images: Path) -> None:
    shortened(images, [(1, 1, EAGER)])
    shortened(images, [(1, 1, EAGER)])  # as after a crash
    view = images / "lazy"
    names = {path.name for path in view.iterdir()}
    assert names == {"inventory.img", "pagemap-1.img", "pagemap-shmem-5.img"}
    for name in ("inventory.img", "pagemap-shmem-5.img"):
        assert (view / name).samefile(images / name)
    assert view.stat().st_mode & 0o777 == 0o700


def test_a_pagemap_that_is_damaged_is_refused(images: Path) -> None:
    (images / "pagemap-1.img").write_bytes(pagemap([(9, 1, LAZY), (1, 1, LAZY)]))
    with pytest.raises(NativeError, match="damaged"):
        make_view(images, images / "lazy")
    assert not (images / "lazy" / "pagemap-1.img").exists()


def test_in_place_the_full_pagemap_stays_beside_the_short_one(images: Path) -> None:
    entries = [(16, 17, LAZY), (36, 17, LAZY)]
    (images / "pagemap-1.img").write_bytes(pagemap(entries))
    for _ in range(2):  # as after a crash
        shorten(images)
        assert (images / "pagemap-1.img").read_bytes() == pagemap([(16, 34, LAZY)])
        assert (images / "full-pagemap-1.img").read_bytes() == pagemap(entries)


def test_a_damaged_pagemap_is_refused_in_place_too(images: Path) -> None:
    (images / "pagemap-1.img").write_bytes(b"x")
    with pytest.raises(NativeError):
        shorten(images)
    assert {one.name for one in images.glob("*pagemap-[0-9]*")} == {"pagemap-1.img"}


def left_out(*regions: tuple[int, int], pid: int = 42) -> bytes:
    head = struct.pack("=QqQ", 0x74756F7466656C01, pid, len(regions))
    return head + b"".join(struct.pack("=QQ", at * PAGE, end * PAGE) for at, end in regions)


def whole(images: Path, entries: list[Entry], written: bytes) -> bytes:
    (images / "pagemap-1.img").write_bytes(pagemap(entries))
    (images.parent / "left-out").write_bytes(written)
    add_left_out(images, images.parent / "left-out", {42: 1, 43: 1})
    return (images / "pagemap-1.img").read_bytes()


def test_what_criu_was_kept_from_is_lazy_between_what_it_has_dumped(images: Path) -> None:
    entries = [(1, 2, EAGER), (90, 1, ELSEWHERE)]
    assert whole(images, entries, left_out((10, 20), (30, 31))) == pagemap(
        [(1, 2, EAGER), (10, 10, ELSEWHERE), (30, 1, ELSEWHERE), (90, 1, ELSEWHERE)]
    )


def test_regions_of_several_scans_are_told_once(images: Path) -> None:
    # Linux 6.18 may begin a scan before the end of what it has told.
    written = left_out((10, 20), (30, 40)) + left_out((35, 50)) + left_out((60, 61))
    assert whole(images, [], written) == pagemap(
        [(10, 10, ELSEWHERE), (30, 10, ELSEWHERE), (40, 10, ELSEWHERE), (60, 1, ELSEWHERE)]
    )


def test_an_image_of_which_nothing_was_left_out_stays_as_it_is(images: Path) -> None:
    assert whole(images, [(1, 2, EAGER)], b"") == pagemap([(1, 2, EAGER)])


@pytest.mark.parametrize(
    ("written", "words"),
    [
        (left_out((1, 2)), "both dumped and left out"),
        (left_out((9, 10))[:-8], "written wrongly"),
        (left_out((9, 10)) + b"x", "cut off"),
        (struct.pack("=QqQ", 0, 42, 0), "written wrongly"),
        (left_out((9, 10), pid=7), "not sent"),
    ],
)
def test_an_image_that_it_does_not_go_with_is_refused(
    images: Path, written: bytes, words: str
) -> None:
    with pytest.raises(PodferryError, match=words):
        whole(images, [(1, 2, EAGER)], written)
