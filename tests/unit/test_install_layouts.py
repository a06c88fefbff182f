# SPDX-License-Identifier: Apache-2.0
"""Install and uninstall on file layouts of real nodes: who decides, what changes, what returns."""

from __future__ import annotations

import difflib
import errno
import os
import shutil
from pathlib import Path

import pytest
import yaml

from shim.errors import InstallRefused, NotFound, PodferryError
from shim.installer import content, kubelet, manifest, session, state
from shim.installer.disk import Disk
from shim.installer.facts import Wish
from shim.installer.machine import Elsewhere
from shim.installer.session import Node
from shim.settings import load

DATA = Path(__file__).parents[1] / "data" / "install"
OURS = "unix:///run/podferry/podferry.sock"
COMMAND = "/usr/local/bin/podferry"
CONTAINERD = "/run/containerd/containerd.sock"
MICROK8S = "/var/snap/microk8s/common/run/containerd.sock"
FLAGS = "/var/lib/kubelet/kubeadm-flags.env"

# layout: (files of kubelet that change or appear, where the endpoint then comes from, the runtime)
LAYOUTS = {
    "kubeadm-1.28": ({FLAGS}, "flag", CONTAINERD),
    "kubeadm-1.34": (
        {"/var/lib/kubelet/config.yaml", "/var/lib/kubelet/instance-config.yaml"},
        "config",
        CONTAINERD,
    ),
    "debian-default": ({"/etc/default/kubelet"}, "flag", CONTAINERD),
    "rpm-sysconfig": ({"/etc/sysconfig/kubelet"}, "flag", CONTAINERD),
    "plain": ({"/etc/kubernetes/kubelet.yaml"}, "config", CONTAINERD),
    "dropin-dir": ({"/etc/kubernetes/kubelet.conf.d/zz-podferry.conf"}, "drop-in", CONTAINERD),
    "image-service": ({"/etc/kubelet.json"}, "config", CONTAINERD),
    "unit-flag": ({"/lib/systemd/system/kubelet.service"}, "flag", CONTAINERD),
    "k3s": (
        {"/var/lib/rancher/k3s/agent/etc/kubelet.conf.d/99-podferry.conf"},
        "drop-in",
        "/run/k3s/containerd/containerd.sock",
    ),
    "microk8s": ({"/var/snap/microk8s/current/args/kubelet"}, "flag", MICROK8S),
    "no-unit": ({"/var/lib/kubelet/config.yaml"}, "config", CONTAINERD),
}
layouts = pytest.mark.parametrize("layout", LAYOUTS)


class Crash(Exception):
    """Stands for the machine losing power."""


def make_root(tmp_path: Path, layout: str) -> Path:
    """A copy of a layout with a podferry command, old times and a mode of its own on each file."""
    root = tmp_path / "root"
    shutil.copytree(DATA / layout, root)
    command = root / COMMAND.lstrip("/")
    command.parent.mkdir(parents=True)
    command.write_text("#!/bin/sh\n")
    (root / "var/lib").mkdir(parents=True, exist_ok=True)
    for number, file in enumerate(sorted(p for p in root.rglob("*") if p.is_file())):
        file.chmod(0o600 + 4 * (number % 2))
        if os.geteuid() == 0:
            os.chown(file, 1000 + number, 2000)
        os.utime(file, ns=(10**18 + number, 10**18 + 2 * number))
    return root


def snapshot(root: Path) -> dict[str, tuple[object, ...]]:
    """Everything below a root that uninstall must give back."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        name = "/" + str(path.relative_to(root))
        if path.is_symlink():
            found[name] = ("link", str(path.readlink()))
        elif path.is_dir():
            found[name] = ("directory", status.st_mode)
        else:
            marks = (status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns)
            found[name] = ("file", path.read_bytes(), *marks)
    return found


def contents(root: Path) -> dict[str, tuple[object, ...]]:
    """The same without times, which a second way to the same result may not share."""
    return {name: entry[:3] for name, entry in snapshot(root).items() if "/install" not in name}


def wish(**changes: object) -> Wish:
    """The wish of a plain `podferry install`."""
    return Wish(command=COMMAND, version="0.1.0", **changes)  # type: ignore[arg-type]


def run_install(root: Path, **changes: object) -> bool:
    """Installs; returns whether anything was changed."""
    return session.install(Node.at(root), wish(**changes), lambda line: None)[1]


def run_uninstall(root: Path) -> bool:
    """Uninstalls; returns whether it is finished."""
    return session.uninstall(Node.at(root), lambda line: None, restart_kubelet=False)[1]


@layouts
def test_kubelet_takes_our_socket_and_nothing_else_changes(tmp_path: Path, layout: str) -> None:
    root = make_root(tmp_path, layout)
    before = snapshot(root)
    files, place, runtime = LAYOUTS[layout]

    assert run_install(root)

    described = state.describe(root)
    assert (described.endpoint, described.endpoint_place) == (OURS, place)
    assert described.points_at_us
    assert not described.problems
    changed = {p for p, entry in snapshot(root).items() if before.get(p) != entry}
    kubelets = {p for p in changed if (root / p[1:]).is_file() and not is_ours(p)}
    assert kubelets == files
    assert load(root / content.SETTINGS[1:], required=True).cri.runtime == runtime


def is_ours(path: str) -> bool:
    """Whether a file is podferry's own on any layout."""
    own = (content.SETTINGS, content.SYSCTL, content.UNIT, content.WANTED_LINK)
    return path in own or path.startswith(content.INSTALL_DIR) or path.endswith(content.ORDER_NAME)


@layouts
def test_only_the_one_value_changes_in_an_edited_file(tmp_path: Path, layout: str) -> None:
    root = make_root(tmp_path, layout)
    originals = {
        p: (root / p[1:]).read_bytes() for p in LAYOUTS[layout][0] if (root / p[1:]).exists()
    }

    run_install(root)

    for path, before in originals.items():
        old = before.decode().splitlines(keepends=True)
        new = (root / path[1:]).read_text().splitlines(keepends=True)
        matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
        for kind, old_start, old_end, new_start, new_end in matcher.get_opcodes():
            if kind == "equal":
                continue
            assert kind in ("replace", "insert"), path
            assert new_end - new_start == max(1, old_end - old_start), path
            assert all(OURS in line for line in new[new_start:new_end]), path


@layouts
def test_the_second_install_changes_nothing(tmp_path: Path, layout: str) -> None:
    root = make_root(tmp_path, layout)
    assert run_install(root)
    installed = snapshot(root)

    assert not run_install(root)

    assert snapshot(root) == installed


@layouts
def test_uninstall_gives_every_byte_mode_owner_and_time_back(tmp_path: Path, layout: str) -> None:
    root = make_root(tmp_path, layout)
    before = snapshot(root)
    run_install(root)

    assert run_uninstall(root)

    assert snapshot(root) == before
    with pytest.raises(NotFound):
        run_uninstall(root)
    assert snapshot(root) == before


@layouts
def test_a_crash_at_any_step_is_repaired_by_install_and_by_uninstall(
    tmp_path: Path, layout: str
) -> None:
    pristine = make_root(tmp_path, layout)
    before = snapshot(pristine)
    clean = copy(pristine, tmp_path / "clean")
    run_install(clean)
    for step in range(1, 200):
        broken = copy(pristine, tmp_path / f"broken-{step}")
        if not crash(broken, step, "install"):
            break
        again = copy(broken, tmp_path / f"again-{step}")
        run_install(again)
        assert contents(again) == contents(clean), f"install after a crash at step {step}"
        assert run_uninstall(again)
        assert snapshot(again) == before, f"install and uninstall after a crash at step {step}"
        if (broken / manifest.PATH[1:]).exists():
            assert run_uninstall(broken)
            assert snapshot(broken) == before, f"uninstall after a crash at step {step}"
    else:
        pytest.fail("install takes more steps than this test crashes at")
    assert step > 8


@pytest.mark.parametrize("layout", ["kubeadm-1.34", "dropin-dir", "unit-flag"])
def test_a_crash_of_uninstall_is_repaired_by_uninstall_and_by_install(
    tmp_path: Path, layout: str
) -> None:
    pristine = make_root(tmp_path, layout)
    before = snapshot(pristine)
    clean = copy(pristine, tmp_path / "clean")
    run_install(clean)
    for step in range(1, 200):
        broken = copy(clean, tmp_path / f"broken-{step}")
        if not crash(broken, step, "uninstall"):
            break
        again = copy(broken, tmp_path / f"again-{step}")
        run_install(again)
        assert contents(again) == contents(clean), f"install after a crash at step {step}"
        if (broken / manifest.PATH[1:]).exists():
            assert run_uninstall(broken)
        # What is left is at most the empty directory of the journal.
        left = {p for p in snapshot(broken) if p not in before}
        assert left <= {content.STATE_DIR, content.INSTALL_DIR}, f"step {step}"
        for path, entry in before.items():
            assert snapshot(broken)[path] == entry, f"{path} after a crash at step {step}"
    else:
        pytest.fail("uninstall takes more steps than this test crashes at")
    assert step > 8


def copy(root: Path, to: Path) -> Path:
    """A copy that keeps owners and times."""
    shutil.copytree(root, to, symlinks=True)
    for path in root.rglob("*"):
        if path.is_file() and os.geteuid() == 0:
            status = path.stat()
            os.chown(to / path.relative_to(root), status.st_uid, status.st_gid)
    return to


def crash(root: Path, step: int, what: str) -> bool:
    """Runs install or uninstall and crashes before its n-th change; False if it has fewer."""
    left = step

    def before(word: str) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise Crash(word)

    node = Node(Disk(root, before), Elsewhere())
    try:
        if what == "install":
            session.install(node, wish(), lambda line: None)
        else:
            session.uninstall(node, lambda line: None, restart_kubelet=False)
    except Crash:
        return True
    return False


def test_kubeadm_writes_its_file_again_and_install_points_kubelet_back_at_us(
    tmp_path: Path,
) -> None:
    root = make_root(tmp_path, "kubeadm-1.34")
    file = root / "var/lib/kubelet/config.yaml"
    original = file.read_bytes()
    run_install(root)
    upgraded = original.replace(b"maxPods: 110\n", b"") + b"seccompDefault: true\n"
    file.write_bytes(upgraded)
    assert not state.describe(root).points_at_us

    assert run_install(root)

    assert state.describe(root).points_at_us
    run_uninstall(root)
    assert file.read_bytes() == upgraded


def test_a_file_changed_since_keeps_the_change_and_loses_only_our_value(tmp_path: Path) -> None:
    root = make_root(tmp_path, "kubeadm-1.34")
    file = root / "var/lib/kubelet/config.yaml"
    original = file.read_bytes()
    run_install(root)
    file.write_bytes(file.read_bytes() + b"seccompDefault: true # later\n")

    run_uninstall(root)

    assert file.read_bytes() == original + b"seccompDefault: true # later\n"


def test_a_value_somebody_else_set_since_is_theirs(tmp_path: Path) -> None:
    root = make_root(tmp_path, "plain")
    file = root / "etc/kubernetes/kubelet.yaml"
    run_install(root)
    theirs = file.read_bytes().replace(OURS.encode(), b"unix:///run/other/containerd.sock")
    file.write_bytes(theirs)

    run_uninstall(root)

    assert file.read_bytes() == theirs


def test_edited_settings_are_kept_and_an_edited_unit_is_put_out_of_the_way(tmp_path: Path) -> None:
    root = make_root(tmp_path, "plain")
    run_install(root)
    settings, unit = root / content.SETTINGS[1:], root / content.UNIT[1:]
    settings.write_text(settings.read_text() + "\n")
    unit.write_text(unit.read_text() + "# mine\n")
    assert not run_install(root), "an edited unit is not clobbered by a later install"

    run_uninstall(root)

    assert settings.read_text().endswith("\n\n")
    assert not unit.exists()
    assert unit.with_name(unit.name + ".podferry-kept").read_text().endswith("# mine\n")


def test_settings_of_the_user_are_used_and_never_touched(tmp_path: Path) -> None:
    root = make_root(tmp_path, "plain")
    settings = root / content.SETTINGS[1:]
    settings.parent.mkdir(parents=True)
    settings.write_text('[cri]\nlisten = "/run/other/cri.sock"\n')
    before = snapshot(root)

    run_install(root)

    assert state.describe(root).endpoint == "unix:///run/other/cri.sock"
    run_uninstall(root)
    assert snapshot(root) == before


def test_kubelet_told_to_read_other_files_by_the_user(tmp_path: Path) -> None:
    root = make_root(tmp_path, "plain")
    directory = root / "etc/kubelet.d"
    directory.mkdir()

    run_install(root, kubelet_configs=("/etc/kubelet.d",))

    written = yaml.safe_load((directory / "99-podferry.conf").read_text())
    assert written["containerRuntimeEndpoint"] == OURS
    assert state.describe(root).points_at_us
    assert not run_install(root), "a later run remembers what it was told"
    with pytest.raises(InstallRefused, match="/etc/nowhere"):
        run_install(root, kubelet_configs=("/etc/nowhere",))


def test_a_link_that_is_absolute_is_followed_inside_the_root(tmp_path: Path) -> None:
    root = make_root(tmp_path, "plain")
    file = root / "etc/kubernetes/kubelet.yaml"
    (root / "srv").mkdir()
    file.rename(root / "srv/kubelet.yaml")
    file.symlink_to("/srv/kubelet.yaml")
    before = snapshot(root)

    run_install(root)

    assert file.is_symlink()
    assert OURS in (root / "srv/kubelet.yaml").read_text()
    run_uninstall(root)
    assert snapshot(root) == before


REFUSED = {
    "crio": ("unix:///var/run/crio/crio.sock", "CRI-O"),
    "cri-dockerd": ("unix:///run/cri-dockerd.sock", "cri-dockerd"),
    "tcp": ("tcp://127.0.0.1:2376", "not a unix socket"),
    "npipe": ("npipe:////./pipe/containerd-containerd", "not a unix socket"),
    "unknown": ("unix:///run/mystery.sock", "cannot be told"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_runtime_that_is_not_containerd_is_refused_with_its_name(
    tmp_path: Path, case: str
) -> None:
    root = make_root(tmp_path, "plain")
    endpoint, word = REFUSED[case]
    file = root / "etc/kubernetes/kubelet.yaml"
    file.write_text(file.read_text() + f"containerRuntimeEndpoint: {endpoint}\n")
    before = snapshot(root)

    with pytest.raises(InstallRefused, match=word):
        run_install(root)

    assert snapshot(root) == before


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ('listen = "/run/crio/crio.sock"', "CRI-O"),
        ('listen = "/run/containerd/containerd.sock"', "same socket"),
        ('runtime = "/run/k3s/containerd/containerd.sock"', "other containers"),
        (f'listen = "/run/{"x" * 110}"', "longer"),
    ],
)
def test_settings_that_cannot_be_right_are_refused(
    tmp_path: Path, settings: str, word: str
) -> None:
    root = make_root(tmp_path, "plain")
    file = root / content.SETTINGS[1:]
    file.parent.mkdir(parents=True)
    file.write_text(f"[cri]\n{settings}\n")
    before = snapshot(root)

    with pytest.raises(PodferryError, match=word):
        run_install(root)

    assert snapshot(root) == before


def test_no_kubelet_no_command_and_a_damaged_manifest_are_refused(tmp_path: Path) -> None:
    root = make_root(tmp_path, "plain")
    with pytest.raises(InstallRefused, match="--command"):
        session.install(Node.at(root), Wish("/opt/none", "1"), lambda line: None)
    run_install(root)
    (root / manifest.PATH[1:]).write_text("{}")
    with pytest.raises(InstallRefused, match="by hand"):
        run_uninstall(root)
    empty = tmp_path / "empty"
    (empty / "usr/local/bin").mkdir(parents=True)
    (empty / COMMAND[1:]).write_text("")
    with pytest.raises(InstallRefused, match="--kubelet-config"):
        run_install(empty)


def test_a_kubelet_with_neither_flag_nor_file_is_refused(tmp_path: Path) -> None:
    root = make_root(tmp_path, "plain")
    unit = root / "etc/systemd/system/kubelet.service"
    unit.write_text("[Service]\nExecStart=/usr/bin/kubelet --v=2\n")
    with pytest.raises(InstallRefused, match="neither"):
        run_install(root)


def test_k3s_with_the_endpoint_as_a_kubelet_arg_is_refused(tmp_path: Path) -> None:
    root = make_root(tmp_path, "k3s")
    file = root / "etc/rancher/k3s/config.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("kubelet-arg:\n- container-runtime-endpoint=unix:///run/x.sock\n")
    with pytest.raises(InstallRefused, match="kubelet-arg"):
        run_install(root)


def test_an_image_endpoint_of_another_program_is_kept_and_said(tmp_path: Path) -> None:
    root = make_root(tmp_path, "image-service")
    prepared, _ = session.install(Node.at(root), wish(), lambda line: None)
    assert any("stargz" in note for note in prepared.plan.notes)
    tree = Disk(root).tree
    said = kubelet.image_endpoint(tree, kubelet.find(tree))
    assert said.value is not None
    assert "stargz" in said.value


def test_the_runtimes_image_endpoint_comes_along(tmp_path: Path) -> None:
    for layout in ("dropin-dir", "unit-flag"):
        root = make_root(tmp_path / layout, layout)
        run_install(root)
        tree = Disk(root).tree
        assert kubelet.image_endpoint(tree, kubelet.find(tree)).value == OURS


def test_a_full_disk_is_told_in_words_and_the_next_run_goes_on(tmp_path: Path) -> None:
    root = make_root(tmp_path, "plain")

    def full(word: str) -> None:
        if word == f"write {content.UNIT}":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), content.UNIT)

    node = Node(Disk(root, full), Elsewhere())
    with pytest.raises(PodferryError, match="No space left"):
        session.install(node, wish(), lambda line: None)
    assert state.describe(root).progress == "installing"
    assert run_install(root)
    assert state.describe(root).points_at_us


def test_a_file_that_may_not_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_root(tmp_path, "plain")

    def forbidden(self: Path) -> bytes:
        raise PermissionError(errno.EACCES, "no", str(self))

    monkeypatch.setattr(Path, "read_bytes", forbidden)
    with pytest.raises(InstallRefused, match="run as root"):
        run_install(root)
    assert any("run as root" in problem for problem in state.describe(root).problems)


def test_two_installers_do_not_meet(tmp_path: Path) -> None:
    root = make_root(tmp_path, "plain")
    with Disk(root).locked(), pytest.raises(PodferryError, match="another install"):
        run_install(root)
    assert run_install(root)
