# SPDX-License-Identifier: Apache-2.0
"""Install and uninstall on a running node, which is scripted: the order of files and commands."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pytest

from shim.errors import PodferryError, Unavailable
from shim.installer import content, manifest, session, state
from shim.installer.disk import Disk
from shim.installer.facts import Wish
from shim.installer.kubelet import Kubelet
from shim.installer.machine import ThisNode
from shim.installer.manifest import Moment
from shim.installer.session import Node
from shim.installer.steps import Live
from shim.installer.tree import Tree
from tests.unit.test_install_layouts import COMMAND, OURS, make_root, snapshot

FLAGS = "/var/lib/kubelet/kubeadm-flags.env"
PIPE = "fs.pipe-max-size"
RESTART = "systemctl restart kubelet.service"
START = "systemctl start podferry.service"
STOP = "systemctl stop podferry.service"


class ScriptedNode(ThisNode):
    """A running node that keeps a diary of what was done to it, its files included."""

    def __init__(self, root: Path) -> None:
        self.diary: list[str] = []
        self.disk = Disk(root, self.diary.append)
        self.clock = 1000.0
        self.service_active = False
        self.kubelet_started: float | None = 10.0
        self.sysctls = {PIPE: "1048576"}
        self.annotation: str | None = None
        self.kubectl: tuple[str, ...] = ()
        self.runtime_name: str | None = "containerd"
        self.fails: str = ""

    def node(self) -> Node:
        """As the installer sees it."""
        return Node(self.disk, self)

    def look(self, tree: Tree, found: Kubelet, runtime: str) -> Live:
        """What the script says."""
        started = None if self.kubelet_started is None else Moment("boot", self.kubelet_started)
        return Live(
            moment=self.moment(),
            service_active=self.service_active,
            kubelet_active=started is not None,
            kubelet_started=started,
            sysctls=dict(self.sysctls),
            kubectl=self.kubectl,
            annotation=self.annotation,
            runtime_name=self.runtime_name,
        )

    def moment(self) -> Moment:
        """A clock that moves when it is read."""
        self.clock += 1
        return Moment("boot", self.clock)

    def run(self, arguments: Sequence[str]) -> None:
        """Notes the command and plays systemd."""
        command = " ".join(arguments)
        self._note(command)
        if command in (START, STOP):
            self.service_active = command == START
        if command == RESTART:
            self.kubelet_started = self.moment().since_boot_s

    def set_sysctl(self, key: str, value: str) -> None:
        """Notes and sets it."""
        self._note(f"sysctl {key}={value}")
        self.sysctls[key] = value

    def await_socket(self, path: str) -> None:
        """Answers if the service was started."""
        self._note(f"await {path}")
        if not self.service_active:
            raise Unavailable("no answer", where=path)

    def annotate(self, arguments: Sequence[str]) -> bool:
        """Notes and sets it."""
        self._note(" ".join(arguments))
        if "annotate" in self.fails:
            return False
        self.annotation = arguments[-1].partition("=")[2]
        return True

    def _note(self, what: str) -> None:
        self.diary.append(what)
        if what == self.fails:
            raise PodferryError(f"{what} fails")


@pytest.fixture
def node(tmp_path: Path) -> ScriptedNode:
    """A node that kubeadm 1.28 set up, its kubelet running."""
    return ScriptedNode(make_root(tmp_path, "kubeadm-1.28"))


def install(node: ScriptedNode, **changes: object) -> tuple[session.Prepared, bool]:
    wish = dataclasses.replace(Wish(COMMAND, "0.1.0"), **changes)  # type: ignore[arg-type]
    return session.install(node.node(), wish, lambda line: None)


def uninstall(node: ScriptedNode, *, restart_kubelet: bool = False) -> bool:
    return session.uninstall(node.node(), lambda line: None, restart_kubelet=restart_kubelet)[1]


def test_the_socket_answers_before_kubelet_is_pointed_at_it(node: ScriptedNode) -> None:
    install(node, restart_kubelet=True)
    diary = node.diary
    order = [
        f"rename {manifest.PATH}",
        f"rename {content.UNIT}",
        "systemctl daemon-reload",
        START,
        "await /run/podferry/podferry.sock",
        f"rename {FLAGS}",
        RESTART,
    ]
    places = [diary.index(word) for word in order]
    assert places == sorted(places)
    assert diary.index(f"sysctl {PIPE}=33554432") < diary.index(START)


def test_kubelet_is_not_restarted_unless_asked(node: ScriptedNode) -> None:
    prepared, changed = install(node)
    assert changed
    assert prepared.plan.pending == (RESTART,)
    assert RESTART not in node.diary
    again, changed = install(node)
    assert not changed
    assert again.plan.pending == (RESTART,), "it is still to be done"
    install(node, restart_kubelet=True)
    assert node.diary[-3:].count(RESTART) == 1
    last, changed = install(node, restart_kubelet=True)
    assert not changed
    assert last.plan.pending == ()


def test_a_second_install_does_nothing_at_all(node: ScriptedNode) -> None:
    install(node, restart_kubelet=True)
    node.diary.clear()
    assert not install(node, restart_kubelet=True)[1]
    assert node.diary == []


def test_a_service_that_does_not_come_up_leaves_kubelet_alone(node: ScriptedNode) -> None:
    flags = (node.disk.tree.root / FLAGS[1:]).read_bytes()
    node.fails = START
    with pytest.raises(PodferryError):
        install(node, restart_kubelet=True)
    assert (node.disk.tree.root / FLAGS[1:]).read_bytes() == flags
    assert RESTART not in node.diary
    assert state.describe(node.disk.tree.root).progress == "installing"
    node.fails = ""
    install(node, restart_kubelet=True)
    assert state.describe(node.disk.tree.root).points_at_us


@pytest.mark.parametrize(
    "failing",
    [
        f"sysctl {PIPE}=33554432",
        "systemctl daemon-reload",
        START,
        "await /run/podferry/podferry.sock",
        RESTART,
    ],
)
def test_after_a_failed_command_install_goes_on_and_uninstall_undoes(
    tmp_path: Path, failing: str
) -> None:
    root = make_root(tmp_path, "kubeadm-1.28")
    before = snapshot(root)
    node = ScriptedNode(root)
    node.fails = failing
    with pytest.raises(PodferryError):
        install(node, restart_kubelet=True)
    node.fails = ""
    node.diary.clear()
    install(node, restart_kubelet=True)
    assert failing == RESTART or "systemctl daemon-reload" in node.diary
    assert RESTART in node.diary
    assert node.service_active
    assert uninstall(node, restart_kubelet=True)
    assert snapshot(root) == before
    assert node.sysctls[PIPE] == "1048576"


def test_uninstall_points_kubelet_back_before_the_service_stops(node: ScriptedNode) -> None:
    install(node, restart_kubelet=True)
    node.diary.clear()
    assert uninstall(node, restart_kubelet=True)
    order = [f"rename {FLAGS}", RESTART, STOP, f"remove {content.UNIT}", f"remove {manifest.PATH}"]
    places = [node.diary.index(word) for word in order]
    assert places == sorted(places)


def test_uninstall_never_stops_a_service_that_a_running_kubelet_uses(tmp_path: Path) -> None:
    root = make_root(tmp_path, "kubeadm-1.28")
    before = snapshot(root)
    node = ScriptedNode(root)
    install(node, restart_kubelet=True)

    assert not uninstall(node)
    assert not uninstall(node), "still not restarted"

    assert node.service_active
    assert STOP not in node.diary
    assert (root / content.UNIT[1:]).exists()
    assert OURS not in (root / FLAGS[1:]).read_text()
    node.run(RESTART.split())
    assert uninstall(node)
    assert not node.service_active
    assert snapshot(root) == before


def test_a_node_without_running_kubelet_needs_no_restart(node: ScriptedNode) -> None:
    node.kubelet_started = None
    assert install(node)[0].plan.pending == ()
    assert uninstall(node)
    assert RESTART not in node.diary


def test_a_kernel_value_somebody_changed_since_stays(node: ScriptedNode) -> None:
    install(node)
    node.sysctls[PIPE] = "67108864"
    node.kubelet_started = None
    assert uninstall(node)
    assert node.sysctls[PIPE] == "67108864"


def test_a_larger_kernel_value_is_not_lowered(node: ScriptedNode) -> None:
    node.sysctls[PIPE] = "67108864"
    install(node)
    assert node.sysctls[PIPE] == "67108864"


def test_kubeadms_annotation_follows_and_comes_back(node: ScriptedNode) -> None:
    former = "unix:///var/run/containerd/containerd.sock"
    node.kubectl, node.annotation = ("kubectl",), former
    install(node, restart_kubelet=True)
    assert node.annotation == OURS
    assert any("node-1" in line for line in node.diary if line.startswith("kubectl"))
    node.diary.clear()
    assert not install(node)[1]
    uninstall(node, restart_kubelet=True)
    assert node.annotation == former


def test_an_annotation_that_fails_leaves_the_command_and_does_not_stop_install(
    node: ScriptedNode,
) -> None:
    node.kubectl, node.annotation = ("kubectl",), "unix:///run/containerd/containerd.sock"
    node.fails = "annotate"
    said: list[str] = []
    session.install(node.node(), Wish(COMMAND, "0.1.0"), said.append)
    assert any("annotate node node-1 --overwrite" in line for line in said)
    assert state.describe(node.disk.tree.root).progress == "installed"


def test_without_kubectl_the_command_is_told(node: ScriptedNode) -> None:
    prepared, _ = install(node)
    assert any("kubectl annotate node" in note for note in prepared.plan.notes)


def test_an_upgrade_hands_over_and_restarts_nothing(node: ScriptedNode) -> None:
    install(node, restart_kubelet=True)
    node.diary.clear()
    install(node, version="0.2.0")
    assert "systemctl reload podferry.service" in node.diary
    assert START not in node.diary
    assert RESTART not in node.diary
    assert state.describe(node.disk.tree.root).version == "0.2.0"


def test_a_runtime_that_calls_itself_something_else_is_refused(node: ScriptedNode) -> None:
    node.runtime_name = "cri-o"
    before = snapshot(node.disk.tree.root)
    with pytest.raises(PodferryError, match="cri-o"):
        install(node)
    assert snapshot(node.disk.tree.root) == before


def test_a_lost_manifest_is_made_anew_from_the_settings(tmp_path: Path) -> None:
    node = ScriptedNode(make_root(tmp_path, "dropin-dir"))
    root = node.disk.tree.root
    before = snapshot(root)
    install(node, restart_kubelet=True)
    (root / manifest.PATH[1:]).unlink()
    install(node, restart_kubelet=True)
    assert state.describe(root).points_at_us
    assert uninstall(node, restart_kubelet=True)
    left = {path for path, entry in snapshot(root).items() if before.get(path) != entry}
    # Settings are the user's; empty directories are all that nobody remembers making.
    assert {path for path in left if (root / path[1:]).is_file()} == {content.SETTINGS}
    assert not any((root / path[1:]).is_symlink() for path in left)
