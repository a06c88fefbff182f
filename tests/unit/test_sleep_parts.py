# SPDX-License-Identifier: Apache-2.0
"""Parts of a sleep: what a start does about a record, records on disk, images, layers of files."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from cri_proto import criu_core_pb2 as core
from cri_proto import runtime_v1_pb2 as cri
from shim.checkpoint import archive, images, sockets, upper
from shim.checkpoint.images import ImagesDamaged
from shim.checkpoint.journal import SleepJournal
from shim.core import mounts
from shim.core.launch import Sleeper
from shim.core.sleep_record import Bed, Remedy, Seen, SleepRecord, Step, recover
from shim.errors import InvalidMessage, MissingFeature, Refused

RUNNING, ASLEEP, GONE = Seen.RUNNING, Seen.ASLEEP, Seen.GONE


@pytest.mark.parametrize(
    ("step", "seen", "remedy"),
    [
        (Step.ASLEEP, [ASLEEP], Remedy.ADOPT),
        (Step.ASLEEP, [ASLEEP, ASLEEP], Remedy.ADOPT),
        (Step.ASLEEP, [ASLEEP, GONE], Remedy.ADOPT),
        (Step.ASLEEP, [ASLEEP, RUNNING], Remedy.WAKE),
        (Step.ASLEEP, [RUNNING], Remedy.CLEAN),
        (Step.ASLEEP, [GONE], Remedy.CLEAN),
        (Step.ASLEEP, [RUNNING, GONE], Remedy.CLEAN),
        (Step.FALLING, [ASLEEP], Remedy.WAKE),
        (Step.FALLING, [ASLEEP, RUNNING], Remedy.WAKE),
        (Step.FALLING, [RUNNING], Remedy.CLEAN),
        (Step.WAKING, [ASLEEP], Remedy.WAKE),
        (Step.FALLING, [], Remedy.CLEAN),
    ],
)
def test_what_a_start_does_about_a_record(step: Step, seen: list[Seen], remedy: Remedy) -> None:
    assert recover(step, seen) is remedy


def record() -> SleepRecord:
    """A record with everything in it."""
    table = mounts.parse("1 0 0:1 / / rw shared:1 - overlay overlay rw,upperdir=/u\n")
    sleeper = Sleeper("c", table, ((1, "pipe:[7]"),), {"net": "/proc/9/ns/net"}, system_v=True)
    bed = Bed("main", sleeper, "/i/c", "/m/c")
    return SleepRecord("s", "default/p", "u", Step.ASLEEP, (bed,), ("10.0.0.1",), 12.5)


def test_records_come_back_as_they_were(tmp_path: Path) -> None:
    journal = SleepJournal(tmp_path / "sleep")
    assert list(journal.records()) == []
    journal.write(record())
    journal.write(record())
    assert list(SleepJournal(tmp_path / "sleep").records()) == [record()]
    (tmp_path / "sleep" / "broken.json").write_text("{")
    assert list(journal.records()) == [record()]
    journal.remove("s")
    journal.remove("s")
    assert list(journal.records()) == []


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    """A sealed image."""
    directory = tmp_path / "image"
    images.make(directory)
    (directory / "core-1.img").write_bytes(b"registers")
    (directory / "pages-1.img").write_bytes(b"memory")
    assert images.seal(directory) == len(b"registers" + b"memory")
    return directory


def test_a_sealed_image_is_private_and_whole(sealed: Path) -> None:
    images.verify(sealed)
    assert sealed.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in sealed.iterdir())
    (sealed / "restore.log").write_text("what CRIU writes later is no part of it")
    images.verify(sealed)


@pytest.mark.parametrize("name", ["core-1.img", "pages-1.img"])
def test_a_file_that_is_cut_or_missing_is_found(sealed: Path, name: str) -> None:
    (sealed / name).write_bytes(b"x")
    with pytest.raises(ImagesDamaged, match=name):
        images.verify(sealed)
    (sealed / name).unlink()
    with pytest.raises(ImagesDamaged, match=name):
        images.verify(sealed)


def test_an_image_without_its_manifest_is_not_trusted(sealed: Path) -> None:
    (sealed / images.MANIFEST).unlink()
    with pytest.raises(ImagesDamaged, match="manifest"):
        images.verify(sealed)


def test_no_room_is_told_with_figures(tmp_path: Path) -> None:
    images.require_room(tmp_path, 1)
    with pytest.raises(Refused, match="MiB free"):
        images.require_room(tmp_path, 1 << 50)


def test_the_upper_directory_is_read_from_the_mounts() -> None:
    table = mounts.parse("1 0 0:1 / / rw - overlay overlay rw,lowerdir=/l,upperdir=/u,workdir=/w\n")
    assert upper.directory_of(table) == Path("/u")
    with pytest.raises(MissingFeature):
        upper.directory_of(mounts.parse("1 0 0:1 / / rw - ext4 /dev/sda rw\n"))


def test_a_layer_leaves_mount_points_out(tmp_path: Path) -> None:
    tree = tmp_path / "upper"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc/hosts").write_text("made by the runtime")
    (tree / "etc/own").write_text("changed")
    (tree / "link").symlink_to("/outside")
    upper.write_layer(tree, frozenset({"/etc/hosts"}), tmp_path / "layer.tar")
    with tarfile.open(tmp_path / "layer.tar") as tar:
        assert tar.getnames() == ["etc", "link", "etc/own"]
        assert tar.getmember("link").issym()


def test_connections_in_an_image_are_closed_and_listeners_stay(tmp_path: Path) -> None:
    def entry(state: int, port: int) -> bytes:
        socket = {"proto": 6, "state": state, "src_port": 80, "dst_port": port}
        body = core.file_entry(type=2, id=state, isk=socket).SerializeToString()
        return len(body).to_bytes(4, "little") + body

    head = (0x54564319).to_bytes(4, "little") + b"ABCD"
    (tmp_path / "files.img").write_bytes(head + entry(1, 5000) + entry(10, 0))
    mark = core.inventory_entry(img_version=2, tcp_close=True).SerializeToString()
    (tmp_path / "inventory.img").write_bytes(b"ABCD" + len(mark).to_bytes(4, "little") + mark)
    assert sockets.close_connections(tmp_path) == 1
    data = (tmp_path / "files.img").read_bytes()
    found = [core.file_entry.FromString(one).isk for one in sockets._entries(data)]
    assert [(one.state, one.src_port, one.dst_port) for one in found] == [(7, 0, 0), (10, 80, 0)]
    (raw,) = sockets._entries((tmp_path / "inventory.img").read_bytes())
    assert not core.inventory_entry.FromString(raw).HasField("tcp_close")
    (tmp_path / "files.img").write_bytes(data[:-1])
    with pytest.raises(InvalidMessage):
        sockets.close_connections(tmp_path)


def test_status_is_written_as_go_reads_it() -> None:
    status = cri.ContainerStatus(
        id="c",
        state=cri.CONTAINER_RUNNING,
        created_at=1700000000000000001,
        labels={"a": "b"},
        image={"image": "i"},
    )
    told = json.loads(json.dumps(archive.go_json(status)))
    assert (told["state"], told["created_at"]) == (1, 1700000000000000001)
    assert told["labels"] == {"a": "b"}
    assert told["image"] == {"image": "i"}
