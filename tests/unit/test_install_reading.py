# SPDX-License-Identifier: Apache-2.0
"""How the installer reads units, environment files, links and kubelet's order of precedence."""

from __future__ import annotations

import os
import shutil
import subprocess
import tomllib
from pathlib import Path

import msgspec
import pytest

from shim import settings
from shim.errors import InstallRefused
from shim.installer import content, kubelet, machine, manifest, report, unit_files
from shim.installer.tree import MemoryTree, Overlay, RootTree, same_socket, socket_path

UNIT = "/usr/lib/systemd/system/kubelet.service"
ETC = "/etc/systemd/system/kubelet.service.d"
USR = "/usr/lib/systemd/system/kubelet.service.d"


def read(files: dict[str, str]) -> unit_files.Service:
    """Reads kubelet.service from these files."""
    tree = MemoryTree({path: text.encode() for path, text in files.items()})
    found = unit_files.read_service(tree, "kubelet.service")
    assert found is not None
    return found


def test_drop_ins_go_by_name_and_the_higher_directory_hides_the_lower() -> None:
    found = read(
        {
            UNIT: "[Service]\nExecStart=/k --a\n",
            f"{USR}/10-x.conf": "[Service]\nExecStart=\nExecStart=/k --hidden\n",
            f"{ETC}/10-x.conf": "[Service]\nExecStart=\nExecStart=/k --b $MORE\n",
            f"{USR}/20-y.conf": "[Service]\nEnvironment=MORE=--c\n[Unit]\nEnvironment=MORE=--no\n",
            f"{ETC}/readme.txt": "[Service]\nExecStart=/k --no\n",
        }
    )
    assert found.arguments == ("/k", "--b", "--c")
    assert found.files == (UNIT, f"{ETC}/10-x.conf", f"{USR}/20-y.conf")
    assert [region.path for region in found.regions] == [f"{ETC}/10-x.conf", f"{USR}/20-y.conf"]


def test_environment_files_beat_environment_and_the_later_file_the_earlier() -> None:
    found = read(
        {
            UNIT: "[Service]\nEnvironment='A=--one 1' B=--b\nEnvironmentFile=-/e1\n"
            "EnvironmentFile=/e2\nEnvironmentFile=-/absent\nExecStart=/k $A ${B} $C $UNKNOWN\n",
            "/e1": "# A=--no\nA=--from-e1\nC='--c   c'\n",
            "/e2": 'A="--from e2"\r\n; B=--no\n\n',
        }
    )
    assert found.arguments == ("/k", "--from", "e2", "--b", "--c", "c")
    assert {region.path for region in found.regions} == {UNIT, "/e1", "/e2"}


def test_continued_lines_with_comments_between() -> None:
    found = read({UNIT: "[Service]\nExecStart=/k \\\n  --a \\\n# no\n;no\n  --b\nRestart=always\n"})
    assert found.arguments == ("/k", "--a", "--b")


def test_an_empty_environment_resets_and_an_odd_quote_is_survived() -> None:
    found = read({UNIT: "[Service]\nEnvironment=A=--no\nEnvironment=\nExecStart=/k $A --x='odd\n"})
    assert found.arguments == ("/k", "--x='odd")


def test_a_unit_without_command_has_no_arguments() -> None:
    assert read({UNIT: "[Unit]\nDescription=x\n"}).arguments == ()
    assert unit_files.read_service(MemoryTree({}), "kubelet.service") is None


def config(endpoint: str) -> str:
    return f"kind: KubeletConfiguration\ncontainerRuntimeEndpoint: {endpoint}\n"


PRECEDENCE = {
    "default": ({"/k.yaml": "kind: K\n"}, "", kubelet.DEFAULT_ENDPOINT),
    "empty is default": ({"/k.yaml": config('""')}, "", kubelet.DEFAULT_ENDPOINT),
    "file": ({"/k.yaml": config("unix:///f")}, "", "unix:///f"),
    "drop-in beats file": (
        {"/k.yaml": config("unix:///f"), "/d/1.conf": config("unix:///d")},
        "",
        "unix:///d",
    ),
    "later drop-in wins, other suffixes are not read": (
        {"/d/1.conf": config("unix:///1"), "/d/2.conf": config("unix:///2"), "/d/3.yaml": "a: ["},
        "",
        "unix:///2",
    ),
    "directories in their place": (
        {"/d/5.d/9.conf": config("unix:///5"), "/d/4.conf": config("unix:///4")},
        "",
        "unix:///5",
    ),
    "flag beats all": (
        {"/k.yaml": config("unix:///f"), "/d/1.conf": config("unix:///d")},
        "--container-runtime-endpoint=unix:///flag",
        "unix:///flag",
    ),
    "last flag wins": (
        {},
        "--container-runtime-endpoint=unix:///a --container_runtime_endpoint unix:///b",
        "unix:///b",
    ),
}


@pytest.mark.parametrize("case", PRECEDENCE)
def test_precedence_is_kubelets(case: str) -> None:
    files, flags, expected = PRECEDENCE[case]
    unit = f"[Service]\nExecStart=/k --config=/k.yaml --config-dir=/d {flags}\n"
    tree = MemoryTree({UNIT: unit.encode(), **{p: t.encode() for p, t in files.items()}})
    assert kubelet.runtime_endpoint(tree, kubelet.find(tree)).value == expected


@pytest.mark.parametrize(
    ("endpoint", "path"),
    [
        ("unix:///run/a.sock", "/run/a.sock"),
        ("unix:///var/run/a.sock", "/run/a.sock"),
        ("unix:////run/a.sock", "/run/a.sock"),
        ("/var/run/a.sock", "/run/a.sock"),
        ("unix://run/a.sock", None),
        ("tcp://127.0.0.1:1", None),
        ("", None),
    ],
)
def test_socket_paths(endpoint: str, path: str | None) -> None:
    assert socket_path(endpoint) == path


def test_no_endpoint_is_the_same_as_none() -> None:
    assert not same_socket(None, None)


def test_links_are_followed_inside_the_root(tmp_path: Path) -> None:
    (tmp_path / "usr/lib").mkdir(parents=True)
    (tmp_path / "usr/lib/f").write_text("x")
    (tmp_path / "lib").symlink_to("usr/lib")
    (tmp_path / "deep").symlink_to("/lib/../lib/f")
    (tmp_path / "out").symlink_to("../../../../etc/passwd")
    tree = RootTree(tmp_path)
    assert tree.resolve("/deep") == "/usr/lib/f"
    assert tree.read("/lib/f") == b"x"
    assert tree.read("/out") is None, "it would leave the root"
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InstallRefused, match="links"):
        tree.resolve("/loop")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(InstallRefused, match="regular"):
        tree.read("/fifo")


def test_an_overlay_shows_files_as_they_would_be() -> None:
    below = MemoryTree({"/d/a": b"1", "/d/b": b"2"})
    tree = Overlay(below, {"/d/a": None, "/d/c": b"3", "/e/f/g": b"4"})
    assert tree.names("/d") == ("b", "c")
    assert tree.names("/e") == ("f",)
    assert (tree.read("/d/a"), tree.read("/d/c")) == (None, b"3")
    assert tree.names("/none") is None


def test_default_settings_hold_every_key_and_mean_the_defaults() -> None:
    text = content.settings_file("/run/k3s/containerd/containerd.sock").decode()
    parsed = settings.parse(tomllib.loads(text), where="f")
    assert parsed.cri.runtime == "/run/k3s/containerd/containerd.sock"
    default = msgspec.structs.replace(parsed.cri, runtime=settings.Cri().runtime)
    assert msgspec.structs.replace(parsed, cri=default) == settings.Settings()
    # With the marks taken off, every key is there with its default, and explained.
    lines = text.splitlines()
    keys = [line.removeprefix("# ") for line in lines if " = " in line]
    sections = {f.name: f.type for f in msgspec.structs.fields(settings.Settings)}
    assert len(keys) == sum(len(msgspec.structs.fields(kind)) for kind in sections.values())
    for number, line in enumerate(lines):
        if " = " in line:
            assert lines[number - 1].startswith("# "), line


KUBELET = kubelet.Kubelet("kubelet.service", "kubelet", (), None, None, {}, False)


def test_the_unit_says_what_it_must() -> None:
    text = content.service_unit("/usr/bin/podferry", "/etc/p.toml", settings.Settings(), KUBELET)
    unit = text.decode().splitlines()
    head = unit[unit.index("[Unit]") : unit.index("[Service]")]
    for line in ("After=containerd.service", "Before=kubelet.service", "StartLimitIntervalSec=0"):
        assert line in head
    for line in (
        "Type=notify",
        "NotifyAccess=all",
        "Restart=always",
        "RestartSec=100ms",
        "ExecStart=/usr/bin/podferry --config /etc/p.toml serve",
        "ExecReload=/usr/bin/podferry --config /etc/p.toml handover",
        "KillMode=process",
        "RuntimeDirectoryPreserve=yes",
    ):
        assert line in unit
    assert not [line for line in unit if line.startswith(("Private", "Protect", "Capability"))]
    assert b"Requires" not in content.kubelet_order()


def test_k3s_starts_its_runtime_after_us() -> None:
    found = kubelet.Kubelet("k3s.service", "k3s", (), None, "/d", {}, False)
    text = content.service_unit("/p", "/etc/p.toml", settings.Settings(), found).decode()
    assert "Before=k3s.service" in text
    assert "containerd.service" not in text


def test_a_path_that_a_unit_would_misread_is_refused() -> None:
    with pytest.raises(InstallRefused, match="plain path"):
        content.service_unit("/opt/my podferry", "/etc/p.toml", settings.Settings(), KUBELET)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / content.UNIT_NAME
    unit.write_bytes(content.service_unit("/bin/true", "/etc/p.toml", settings.Settings(), KUBELET))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert content.UNIT_NAME not in done.stderr


def test_the_manifest_survives_its_own_writing() -> None:
    known = manifest.Manifest("installed", "1", "unix:///a", "unix:///b", None, "kubelet.service")
    tree = MemoryTree({manifest.PATH: manifest.encode(known)})
    assert manifest.read(tree) == known
    later = manifest.encode(msgspec.structs.replace(known, format=99))
    with pytest.raises(InstallRefused, match="format 99"):
        manifest.read(MemoryTree({manifest.PATH: later}))


def test_a_diff_says_when_the_last_line_has_no_end() -> None:
    text = report.unified_diff("/f", b"a\nb", b"a\nc\n")
    assert text == "--- /f\n+++ /f\n@@ -1,2 +1,2 @@\n a\n-b\n\\ No newline at end of file\n+c\n"
    assert report.unified_diff("/f", None, b"a\n").startswith("--- /dev/null\n+++ /f\n")


def test_the_start_of_a_process_is_before_now() -> None:
    now = machine.ThisNode().moment()
    started = machine.process_start(os.getpid(), now.boot_id)
    assert started is not None
    assert 0 < started.since_boot_s <= now.since_boot_s
    assert machine.process_start(2**22 + 1, now.boot_id) is None


def test_a_socket_without_server_has_no_name(tmp_path: Path) -> None:
    assert machine.runtime_name(str(tmp_path / "none.sock")) is None
