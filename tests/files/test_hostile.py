# SPDX-License-Identifier: Apache-2.0
"""Frames that a lying peer might send: each is refused, and nothing outside of the root changes."""

from __future__ import annotations

import os
import shutil
import socket
import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shim.core import tree_frames as wire
from shim.core.tree_frames import Attributes, FrameWriter, Operation
from shim.errors import Code, InvalidMessage, NotFound, PodferryError, Refused
from shim.files.applier import Applier
from shim.files.tree import Tree, difference
from tests.files.looking import look

BEGIN = (Operation.BEGIN, b"", wire.OFFSET.pack(10), 0)
FINISH = (Operation.FINISH, b"", wire.TOTALS.pack(0, 0, 0), 0)
Record = tuple[Operation, bytes, bytes, int]


def attributes(mode: int, uid: int = 0, **more: tuple[tuple[bytes, bytes], ...]) -> bytes:
    return Attributes(mode, uid, uid, (1, 2), **more).packed()


def directory(path: bytes, **more: int) -> Record:
    return Operation.DIRECTORY, path, attributes(stat.S_IFDIR | 0o755, **more), 0


def file(path: bytes, size: int = 5, flags: int = wire.FRESH) -> Record:
    return Operation.FILE, path, wire.OFFSET.pack(size), flags


def data(offset: int, content: bytes) -> Record:
    return Operation.DATA, b"", wire.OFFSET.pack(offset) + content, 0


def end(path: bytes, mode: int = stat.S_IFREG | 0o644, **more: int) -> Record:
    return Operation.END, path, attributes(mode, **more), 0


def symlink(path: bytes, target: bytes) -> Record:
    return Operation.SYMLINK, path, attributes(stat.S_IFLNK | 0o777) + target, 0


def node(path: bytes, mode: int, device: int = 0) -> Record:
    return Operation.NODE, path, attributes(mode) + wire.OFFSET.pack(device), 0


def link(path: bytes, target: bytes) -> Record:
    return Operation.LINK, path, target, 0


def frame(*records: Record) -> bytes:
    writer = FrameWriter()
    for record in records:
        assert list(writer.add(*record)) == []
    (made,) = writer.flush()
    return made


@pytest.fixture
def outside(place: Path) -> Iterator[Path]:
    """A directory with a secret beside the root; it must be as it was."""
    (place / "root").mkdir()
    (place / "root/existing").write_bytes(b"12345")
    (place / "root/way-out").symlink_to("../outside")
    (place / "root/fifo").write_bytes(b"")
    made = place / "outside"
    made.mkdir()
    (made / "secret").write_text("secret")
    before = look(made)
    yield made
    assert look(made) == before


HOSTILE: dict[str, tuple[Record, ...]] = {
    "absolute": (BEGIN, directory(b"/etc")),
    "parent": (BEGIN, directory(b"../outside/made")),
    "parent inside": (BEGIN, directory(b"a/../../outside/made")),
    "dot": (BEGIN, directory(b"./a")),
    "double slash": (BEGIN, directory(b"a//b")),
    "slash at the end": (BEGIN, directory(b"a/")),
    "nul": (BEGIN, directory(b"a\0b")),
    "empty": (BEGIN, file(b"")),
    "long name": (BEGIN, directory(b"n" * 256)),
    "deep": (BEGIN, directory(b"/".join([b"a"] * 600))),
    "through a link": (BEGIN, file(b"way-out/secret")),
    "through a link that it made": (BEGIN, symlink(b"a", b"../outside"), file(b"a/secret")),
    "remove through a parent": (BEGIN, (Operation.REMOVE, b"../outside", b"", 0)),
    "stash through a link": (
        BEGIN, (Operation.STASH, b"way-out/secret", wire.NUMBER.pack(0), 0)),
    "stash a link": (BEGIN, (Operation.STASH, b"way-out", wire.NUMBER.pack(0), 0)),
    "stash out of order": (BEGIN, (Operation.STASH, b"existing", wire.NUMBER.pack(7), 0)),
    "unknown stash": (
        BEGIN, (Operation.FILE, b"x", wire.OFFSET.pack(1) + wire.NUMBER.pack(3), wire.STASHED)),
    "write into a link": (BEGIN, file(b"way-out", flags=0)),
    "link to outside": (BEGIN, link(b"mine", b"../outside/secret")),
    "link through a link": (BEGIN, link(b"mine", b"way-out/secret")),
    "link to nothing": (BEGIN, link(b"mine", b"nothing")),
    "link of a directory": (BEGIN, directory(b"d"), link(b"mine", b"d")),
    "twice": (BEGIN, directory(b"a"), directory(b"a")),
    "kind flips": (BEGIN, directory(b"a"), symlink(b"a", b"x")),
    "out of order": (BEGIN, directory(b"b"), directory(b"a")),
    "back to an earlier group": (BEGIN, directory(b"b"), (Operation.REMOVE, b"b", b"", 0)),
    "no beginning": (directory(b"a"),),
    "two beginnings": (BEGIN, BEGIN),
    "after the end": (BEGIN, FINISH, directory(b"a")),
    "device": (BEGIN, node(b"sda", stat.S_IFBLK | 0o666, 8 << 32)),
    "node that is a file": (BEGIN, node(b"x", stat.S_IFREG | 0o666)),
    "fifo with a number": (BEGIN, node(b"x", stat.S_IFIFO | 0o666, 1)),
    "directory that is a file": (BEGIN, (Operation.DIRECTORY, b"d", attributes(0o100644), 0)),
    "file that ends as a directory": (BEGIN, file(b"f"), end(b"f", stat.S_IFDIR | 0o755)),
    "end of another file": (BEGIN, file(b"f"), end(b"g")),
    "content without a file": (BEGIN, data(0, b"x")),
    "content behind the end": (BEGIN, file(b"f"), data(3, b"123")),
    "content far away": (BEGIN, file(b"f"), data((1 << 64) - 1, b"123")),
    "hole behind everything": (
        BEGIN, file(b"f"), (Operation.HOLE, b"", wire.RANGE.pack(1 << 63, 1 << 63), 0)),
    "file without an end": (BEGIN, file(b"f"), directory(b"g")),
    "enormous file": (BEGIN, file(b"f", (1 << 64) - 1)),
    "overlay's own attribute": (BEGIN, (Operation.DIRECTORY, b"d", attributes(
        stat.S_IFDIR, xattrs=((b"trusted.overlay.redirect", b"/"),)), 0)),
    "node's own attribute": (BEGIN, (Operation.DIRECTORY, b"d", attributes(
        stat.S_IFDIR, xattrs=((b"security.selinux", b"x"),)), 0)),
    "symbolic link to nothing": (BEGIN, symlink(b"s", b"")),
    "symbolic link with a nul": (BEGIN, symlink(b"s", b"a\0b")),
    "too many entries": ((Operation.BEGIN, b"", wire.OFFSET.pack(1000), 0),),
    "more entries than said": (BEGIN, *(directory(b"%03d" % one) for one in range(201))),
    "too much content": (BEGIN, file(b"f", 5000), data(0, bytes(5000))),
    "owner outside of the pod": (BEGIN, directory(b"d", uid=200_000)),
    "set-user-id outside of the pod": (BEGIN, file(b"f"), end(b"f", 0o104755, uid=200_000)),
    "cut attributes": (BEGIN, (Operation.DIRECTORY, b"d", b"xx", 0)),
    "impossible nanoseconds": (BEGIN, (Operation.DIRECTORY, b"d", wire.ATTRIBUTES.pack(
        stat.S_IFDIR, 0, 0, 0, 0, 1 << 31, 0), 0)),
    "attributes that are not there": (BEGIN, (Operation.DIRECTORY, b"d", wire.ATTRIBUTES.pack(
        stat.S_IFDIR, 0, 0, 0, 0, 0, 9), 0)),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_lie_is_refused(place: Path, outside: Path, kind: str) -> None:
    with Applier(place / "root", 4096, 100, ids=(0, 65535)) as applier:
        with pytest.raises(PodferryError) as caught:
            applier.feed(frame(*HOSTILE[kind]))
        assert str(caught.value)
        # Nothing more is taken from a peer that has lied.
        with pytest.raises(Refused):
            applier.feed(frame(BEGIN))
        with pytest.raises(InvalidMessage, match="ended early"):
            applier.finish()


FRAMES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda sound: b"",
    "magic": lambda sound: b"XXXX" + sound[4:],
    "version": lambda sound: sound[:4] + b"\x02" + sound[5:],
    "reserved": lambda sound: sound[:6] + b"\x01" + sound[7:],
    "short": lambda sound: sound[:-1],
    "long": lambda sound: sound + b"\0",
    "oversize": lambda sound: sound + bytes(1 << 20),
    "operation": lambda sound: sound[:12] + b"\x63" + sound[13:],
    "body": lambda sound: sound[:16] + b"\xff\xff\xff\x7f" + sound[20:],
}


@pytest.mark.parametrize("kind", FRAMES)
def test_a_damaged_frame_is_refused(place: Path, outside: Path, kind: str) -> None:
    with Applier(place / "root", 4096, 100) as applier, pytest.raises(InvalidMessage) as caught:
        applier.feed(FRAMES[kind](frame(BEGIN, directory(b"a"))))
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert not (place / "root/a").exists()


@given(where=st.integers(0, 300), value=st.integers(0, 255))
@settings(max_examples=300, deadline=None)
def test_a_changed_byte_does_nothing_outside(where: int, value: int) -> None:
    base = Path("/dev/shm") / f"podferry-hostile-{os.getpid()}"
    (base / "root").mkdir(parents=True, exist_ok=True)
    (base / "secret").write_text("secret")
    (base / "root/a").unlink(missing_ok=True)
    records = (
        BEGIN, directory(b"a"), file(b"a/f"), data(0, b"12345"), end(b"a/f"),
        symlink(b"b", b".."), link(b"c", b"a/f"), FINISH,
    )  # fmt: skip
    sound = bytearray(frame(*records))
    sound[where % len(sound)] = value
    try:
        with Applier(base / "root", 4096, 100) as applier:
            try:
                applier.feed(bytes(sound))
                applier.finish()
            except PodferryError:
                pass
        assert sorted(one.name for one in base.iterdir()) == ["root", "secret"]
        assert (base / "secret").read_text() == "secret"
    finally:
        shutil.rmtree(base)


def test_what_is_sound_is_applied(place: Path, outside: Path) -> None:
    root = place / "root"
    with Applier(root, 4096, 100, devices=True, ids=(0, 65535)) as applier:
        applier.feed(
            frame(BEGIN, directory(b"d"), file(b"d/f"), data(0, b"12345"), end(b"d/f"),
                  node(b"null", stat.S_IFCHR | 0o666, 1 << 32 | 3), link(b"name", b"d/f"), FINISH)
        )  # fmt: skip
        applier.finish()
    assert (root / "name").read_bytes() == b"12345"
    assert (root / "null").stat().st_rdev == os.makedev(1, 3)


def test_a_stash_that_is_not_used_is_dropped(place: Path, outside: Path) -> None:
    stash = (Operation.STASH, b"existing", wire.NUMBER.pack(0), 0)
    with Applier(place / "root", 4096, 100) as applier:
        applier.feed(frame(BEGIN, stash, FINISH))
        applier.finish()
    assert sorted(one.name for one in (place / "root").iterdir()) == ["fifo", "way-out"]


def test_a_whiteout_can_never_be_made(place: Path, outside: Path) -> None:
    with (
        Applier(place / "root", 4096, 100, devices=True) as applier,
        pytest.raises(Refused, match="whiteout"),
    ):
        applier.feed(frame(BEGIN, node(b"w", stat.S_IFCHR)))


def test_a_root_that_is_not_there_is_said(place: Path) -> None:
    with pytest.raises(NotFound):
        Applier(place / "nowhere", 1, 1)
    with pytest.raises(NotFound):
        Tree(place / "nowhere").scan()


def test_a_scan_follows_no_link_and_opens_nothing(place: Path) -> None:
    (place / "link").symlink_to("/")
    os.mkfifo(place / "fifo")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(place / "socket"))
        assert {one.path for one in Tree(place).scan()} == {b"", b"link", b"fifo", b"socket"}


def test_an_inventory_of_a_peer_may_lie(place: Path) -> None:
    seen = Tree(place).scan()
    for records in (b"x", seen.records[:-1], seen.records * 2, b"\xff" * 100):
        with pytest.raises(InvalidMessage):
            difference(replace(seen, records=records, foreign=True), seen)
