# SPDX-License-Identifier: Apache-2.0
"""Journal, fitness, offers, volumes, kubelet's files: the parts of a move that need no node."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from shim.core.fitness import Capabilities, obstacles
from shim.core.migration import SourceStep
from shim.core.offers import Offer, chosen
from shim.core.volumes import Bring, origin
from shim.errors import InvalidMessage, Refused
from shim.migration import pod_files
from shim.migration.journal import FILE_BYTES, MoveJournal
from shim.migration.pod_files import PodFile
from shim.migration.records import SourceRecord

RECORD = SourceRecord("m1", "l1", 1, SourceStep.PLANNED, "default/web", "uid", "sandbox", "node-b")


def journal(tmp_path: Path) -> MoveJournal[SourceRecord]:
    return MoveJournal(tmp_path / "departures", SourceRecord)


def test_the_last_record_counts(tmp_path: Path) -> None:
    log = journal(tmp_path).begin("m1", RECORD)
    log.write(RECORD.at(SourceStep.COPYING))
    log.write(RECORD.at(SourceStep.FREEZING))
    log.close()
    ((name, found),) = journal(tmp_path).logs()
    assert name == "m1"
    assert found.last is not None and found.last.step is SourceStep.FREEZING
    found.write(RECORD.at(SourceStep.GAVE_UP))
    found.close()
    again = journal(tmp_path).find("m1")
    assert again is not None and again.last is not None
    assert again.last.step is SourceStep.GAVE_UP
    again.close()
    path = tmp_path / "departures" / "m1.log"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.stat().st_size == FILE_BYTES


def test_every_cut_of_a_record_leaves_the_one_before(tmp_path: Path) -> None:
    log = journal(tmp_path).begin("m1", RECORD)
    before = os.pread(log._fd, FILE_BYTES, 0)
    log.write(RECORD.at(SourceStep.GAVE_UP))
    after = os.pread(log._fd, FILE_BYTES, 0)
    log.close()
    path = tmp_path / "departures" / "m1.log"
    end = max(i for i in range(FILE_BYTES) if after[i]) + 1
    begin = next(i for i in range(FILE_BYTES) if before[i] != after[i])
    for cut in range(begin, end):
        path.write_bytes(after[:cut] + bytes(FILE_BYTES - cut))
        found = journal(tmp_path).find("m1")
        assert found is not None and found.last is not None
        assert found.last.step is SourceStep.PLANNED, cut
        found.close()


def test_a_record_of_another_release_is_told_and_left(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = journal(tmp_path).begin("m1", RECORD)
    log.write(RECORD.at("teleporting"))  # type: ignore[arg-type]
    log.close()
    assert list(journal(tmp_path).logs()) == []
    assert "cannot be read" in caplog.text
    assert (tmp_path / "departures" / "m1.log").exists()


def test_a_move_is_begun_once_and_ids_are_names(tmp_path: Path) -> None:
    journal(tmp_path).begin("m1", RECORD).close()
    with pytest.raises(Refused):
        journal(tmp_path).begin("m1", RECORD)
    with pytest.raises(InvalidMessage):
        journal(tmp_path).find("../m1")


def node(name: str, **changes: object) -> Capabilities:
    told: dict[str, object] = {
        "node": name,
        "version": "0.1.0",
        "kernel": "6.18",
        "machine": "x86_64",
        "criu_version": "4.2.1",
        "cpu_flags": frozenset({"avx2", "sse2", "spec_ctrl"}),
        "free_memory_bytes": 8 << 30,
        "has_monitors": True,
        **changes,
    }
    return Capabilities(**told)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cpu_flags": frozenset({"sse2"})}, "avx2"),
        ({"machine": "aarch64"}, "aarch64"),
        ({"criu_version": ""}, "absent"),
        ({"criu_version": "3.17.1"}, "3.17.1"),
        ({"criu_version": "4.1.1"}, "older"),
        ({"free_memory_bytes": 1 << 20}, "MiB free"),
        ({"has_monitors": False}, "monitor"),
    ],
)
def test_what_keeps_a_pod_from_a_node_is_told(changes: dict[str, object], words: str) -> None:
    found = obstacles(node("a"), node("b", **changes), 1 << 30)
    assert any(words in one.reason for one in found)
    assert all(one.remedy for one in found)


def test_a_node_that_lacks_only_what_programs_cannot_use_is_fit() -> None:
    assert obstacles(node("a"), node("b", cpu_flags=frozenset({"avx2", "sse2"})), 1 << 30) == []


def offer(move: str, pod: str, **labels: str) -> Offer:
    return Offer(
        move, pod, {key.replace("_", "-"): one for key, one in labels.items()}, frozenset()
    )


def test_an_offer_is_found_by_annotation_or_template() -> None:
    web = offer("m1", "shop/web-1", pod_template_hash="abc", app="web")
    lone = offer("m2", "shop/lone")
    other = offer("m3", "games/web-1", pod_template_hash="abc")
    waiting = [other, web, lone]
    same = {"pod-template-hash": "abc"}
    assert chosen(waiting, "shop", "web-9", same, "") is web
    assert chosen(waiting, "shop", "web-9", {"pod-template-hash": "xyz"}, "") is None
    assert chosen(waiting, "shop", "lone", {}, "") is lone
    assert chosen(waiting, "shop", "other", {}, "m2") is lone
    assert chosen(waiting, "shop", "other", {}, "m3") is None
    assert chosen(waiting, "shop", "web-9", same, "gone") is None


@pytest.mark.parametrize(
    ("path", "bring", "volume"),
    [
        ("/var/lib/kubelet/pods/u/volumes/kubernetes.io~empty-dir/data", Bring.COPY, "data"),
        ("/var/lib/kubelet/pods/u/volumes/kubernetes.io~secret/s", Bring.KUBELET, ""),
        ("/var/lib/kubelet/pods/u/volumes/kubernetes.io~csi/pvc-1/mount", Bring.ATTACH, ""),
        ("/var/lib/kubelet/pods/u/etc-hosts", Bring.KUBELET, ""),
        ("/srv/data", Bring.NODE, ""),
    ],
)
def test_mounts_are_sorted_by_who_brings_them(path: str, bring: Bring, volume: str) -> None:
    found = origin(path)
    assert (found.bring, found.volume) == (bring, volume)


@pytest.fixture
def pods_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(pod_files, "PODS_ROOT", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "", "."])
def test_a_peers_file_stays_below_the_pods_directory(pods_root: Path, name: str) -> None:
    with pytest.raises(InvalidMessage):
        pod_files.write("uid", [PodFile(name, stat.S_IFREG | 0o644, 0, 0, b"x")])
    assert not (pods_root / "x").exists()


def test_a_peers_link_is_not_followed(pods_root: Path) -> None:
    outside = pods_root / "outside"
    outside.mkdir()
    user, group = os.getuid(), os.getgid()
    link = PodFile("d", stat.S_IFLNK | 0o777, user, group, str(outside).encode())
    inside = PodFile("d/f", stat.S_IFREG | 0o644, user, group, b"x")
    with pytest.raises(InvalidMessage):
        pod_files.write("uid", [link, inside])
    assert list(outside.iterdir()) == []


def test_a_volume_that_kubernetes_attaches_is_refused() -> None:
    with pytest.raises(Refused, match="Kubernetes"):
        pod_files.read(["/var/lib/kubelet/pods/u/volumes/kubernetes.io~csi/pvc/mount"])
