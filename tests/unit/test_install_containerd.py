# SPDX-License-Identifier: Apache-2.0
"""containerd is changed only when asked, by one key, where its version merges drop-ins by key."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from shim.errors import InstallRefused
from shim.installer import session
from shim.installer.containerd_plan import CONFIG, CRI_RUNTIME, DROP_IN
from shim.installer.facts import Wish
from shim.installer.session import Node
from tests.unit.test_install_layouts import COMMAND, make_root, run_uninstall, snapshot
from tests.unit.test_install_live import ScriptedNode

RESTART = "systemctl restart containerd.service"
IMPORTS = 'imports = ["/etc/containerd/conf.d/*.toml"]\n'


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A node with a containerd 2 that imports drop-ins; podferry's command plays the runtime."""
    made = make_root(tmp_path, "kubeadm-1.28")
    write_config(made, f"version = 3\n{IMPORTS}")
    return made


def write_config(root: Path, text: str) -> None:
    file = root / CONFIG[1:]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def install(node: Node, **changes: bool) -> session.Prepared:
    wish = Wish(COMMAND, "0.1.0", containerd_runtime=COMMAND, **changes)  # type: ignore[arg-type]
    return session.install(node, wish, lambda line: None)[0]


def test_the_drop_in_sets_one_key_and_goes_with_uninstall(root: Path) -> None:
    before = snapshot(root)
    install(Node.at(root))
    written = tomllib.loads((root / DROP_IN[1:]).read_text())
    options = written["plugins"][CRI_RUNTIME]["containerd"]["runtimes"]["runc"]["options"]
    assert options == {"BinaryName": COMMAND}
    assert install(Node.at(root)).plan.steps == ()
    session.install(Node.at(root), Wish(COMMAND, "0.1.0"), lambda line: None)
    assert (root / DROP_IN[1:]).exists(), "a later install without the option leaves it"
    run_uninstall(root)
    assert snapshot(root) == before


def test_the_default_runtimes_own_name_is_used(root: Path) -> None:
    table = f"[plugins.'{CRI_RUNTIME}'.containerd]\ndefault_runtime_name = 'crun-2.x'\n"
    write_config(root, f"version = 3\n{IMPORTS}{table}")
    install(Node.at(root))
    written = tomllib.loads((root / DROP_IN[1:]).read_text())
    assert list(written["plugins"][CRI_RUNTIME]["containerd"]["runtimes"]) == ["crun-2.x"]


def test_containerd_is_restarted_only_when_asked(root: Path) -> None:
    node = ScriptedNode(root)
    assert RESTART in install(node.node()).plan.pending
    assert RESTART not in node.diary
    session.uninstall(node.node(), lambda line: None, restart_kubelet=True)
    node.diary.clear()
    install(node.node(), restart_containerd=True)
    assert node.diary.index(RESTART) < node.diary.index("systemctl start podferry.service")


@pytest.mark.parametrize(
    ("config", "word"),
    [
        (f"version = 2\n{IMPORTS}", "version 2"),
        (IMPORTS, "version 1"),
        ("version = 3\n", "does not import"),
        ('version = 3\nimports = ["/etc/other/*.toml"]\n', "does not import"),
        ("version = ", "not TOML"),
    ],
)
def test_a_containerd_that_would_not_take_it_is_refused(root: Path, config: str, word: str) -> None:
    write_config(root, config)
    before = snapshot(root)
    with pytest.raises(InstallRefused, match=word):
        install(Node.at(root))
    assert snapshot(root) == before


def test_a_runtime_that_is_not_there_is_refused(root: Path) -> None:
    wish = Wish(COMMAND, "0.1.0", containerd_runtime="/usr/bin/none")
    with pytest.raises(InstallRefused, match="no pod could start"):
        session.install(Node.at(root), wish, lambda line: None)
