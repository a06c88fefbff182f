# SPDX-License-Identifier: Apache-2.0
"""`podferry install` and `uninstall` as they are typed: help, dry run, JSON, exit statuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from shim.cli.main import cli
from shim.errors import InstallRefused, NotFound
from shim.installer import content, unplan
from tests.unit.test_install_layouts import COMMAND, OURS, make_root, snapshot


def type_command(*arguments: str) -> Result:
    """Runs podferry with these arguments; errors of ours are raised as in main()."""
    result = CliRunner().invoke(cli, [*arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A node that kubeadm 1.34 set up."""
    return make_root(tmp_path, "kubeadm-1.34")


def install(root: Path, *more: str) -> Result:
    return type_command("install", "--root", str(root), "--command", COMMAND, *more)


def test_a_dry_run_shows_diffs_and_changes_nothing(root: Path) -> None:
    before = snapshot(root)
    result = install(root, "--dry-run")
    assert result.exit_code == 0
    assert "--- /var/lib/kubelet/config.yaml\n+++ /var/lib/kubelet/config.yaml\n" in result.stdout
    assert f'+containerRuntimeEndpoint: "{OURS}"\n' in result.stdout
    assert f"+++ {content.UNIT}\n" in result.stdout
    assert "nothing was changed (dry run)" in result.stdout
    assert snapshot(root) == before


def test_json_is_all_there_is_on_stdout(root: Path) -> None:
    planned = json.loads(install(root, "--dry-run", "--output", "json").stdout)
    done = json.loads(install(root, "--output", "json").stdout)
    again = json.loads(install(root, "--output", "json").stdout)
    assert (planned["dry_run"], planned["changed"], done["changed"]) == (True, False, True)
    assert planned["steps"] == done["steps"]
    assert {"write", "link"} == {step["action"] for step in done["steps"]}
    assert (again["changed"], again["steps"]) == (False, [])
    assert "nothing to change" in again["result"]


def test_uninstall_dry_run_then_uninstall(root: Path) -> None:
    before = snapshot(root)
    install(root)
    installed = snapshot(root)
    dry = type_command("uninstall", "--root", str(root), "--dry-run")
    assert f"remove {content.UNIT}" in dry.stdout
    assert f'-containerRuntimeEndpoint: "{OURS}"' in dry.stdout
    assert snapshot(root) == installed
    result = type_command("uninstall", "--root", str(root), "--output", "json")
    assert (result.exit_code, json.loads(result.stdout)["result"]) == (0, "podferry is removed")
    assert snapshot(root) == before


def test_uninstall_where_nothing_is_installed_says_so_and_leaves_nothing(root: Path) -> None:
    before = snapshot(root)
    with pytest.raises(NotFound, match="not installed"):
        type_command("uninstall", "--root", str(root))
    assert snapshot(root) == before


def test_settings_elsewhere_are_named_in_the_unit(root: Path) -> None:
    arguments = ["install", "--root", str(root), "--command", COMMAND]
    type_command("--config", "/etc/mine.toml", *arguments)
    assert "--config /etc/mine.toml serve" in (root / content.UNIT[1:]).read_text()
    assert (root / "etc/mine.toml").exists()
    assert "nothing to change" in type_command(*arguments).stdout
    assert not (root / content.SETTINGS[1:]).exists()


def test_uninstall_that_waits_for_kubelet_has_a_status_of_its_own(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = unplan.Unplan((), (), "systemctl restart kubelet.service", ())
    monkeypatch.setattr(
        "shim.installer.session.uninstall", lambda *_, restart_kubelet: (waiting, False)
    )
    result = type_command("uninstall", "--root", str(root))
    assert result.exit_code == 3
    assert "run: systemctl restart kubelet.service\nrun: podferry uninstall\n" in result.stdout


def test_help_tells_order_statuses_and_examples() -> None:
    for command in ("install", "uninstall"):
        text = type_command(command, "--help").stdout
        assert "Exit status" in text
        assert "Examples" in text
        assert all(len(line) <= 80 for line in text.splitlines())


def test_a_command_that_is_not_on_the_node_is_refused(root: Path) -> None:
    with pytest.raises(InstallRefused, match="systemd could not start it"):
        type_command("install", "--root", str(root), "--command", "/opt/none/podferry")
