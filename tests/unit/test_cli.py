# SPDX-License-Identifier: Apache-2.0
"""The command line: help, usage errors, and errors of our tree as one line with exit status 1."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
from click.testing import CliRunner

from shim.cli import main as entry
from shim.errors import PodferryError, Refused


def run(*arguments: str) -> SimpleNamespace:
    """What `podferry ARGUMENTS` prints and its exit status, without the outermost catch."""
    result = CliRunner().invoke(entry.cli, list(arguments), prog_name="podferry")
    return SimpleNamespace(
        status=result.exit_code, out=result.stdout, err=result.stderr, error=result.exception
    )


def run_main(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str]:
    """Exit status and stderr of the console script."""
    monkeypatch.setattr(sys, "argv", ["podferry", *arguments])
    with pytest.raises(SystemExit) as ended:
        entry.main()
    return int(ended.value.code or 0), capsys.readouterr().err


@pytest.fixture
def no_service(tmp_path: Path) -> str:
    """A settings file of a node on which no service runs."""
    config = tmp_path / "config.toml"
    config.write_text(f"service.run_dir = '{tmp_path}'\n")
    return str(config)


def test_the_commands_are_listed_with_what_they_do() -> None:
    result = run("--help")
    assert result.status == 0
    listed = re.findall(r"^  ([a-z]+)  +\S", result.out.partition("Commands:")[2], re.M)
    assert listed == list(entry.COMMANDS)


@pytest.mark.parametrize("name", entry.COMMANDS)
def test_the_help_of_a_command_says_usage_and_exit_status(name: str) -> None:
    result = run(name, "--help")
    assert result.status == 0
    assert result.out.startswith(f"Usage: podferry {name} ")
    assert re.search(r"Exit status:\s+0 ", result.out), "what 0 means"
    assert run(name, "-h").out == result.out


@pytest.mark.parametrize("name", entry.COMMANDS)
def test_each_command_is_of_its_name_and_all_its_options_are_explained(name: str) -> None:
    command = entry.cli.get_command(click.Context(entry.cli), name)
    assert command is not None
    assert command.name == name
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{name} {parameter.opts}"


def test_an_unknown_command_is_a_usage_error() -> None:
    result = run("migrate-everything")
    assert result.status == 2
    assert "No such command 'migrate-everything'" in result.err
    assert result.out == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ("serve", "extra"),
        ("status", "--nonsense"),
        ("handover", "--at-most", "soon"),
        ("handover", "--at-most", "0.5"),
        ("hold",),
        ("release",),
        ("hold", "a/b", "--at-most", "soon"),
    ],
)
def test_a_wrong_command_line_is_a_usage_error(arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert result.status == 2
    assert result.err.startswith(f"Usage: podferry {arguments[0]} ")


def test_the_version_is_the_distributions() -> None:
    assert re.fullmatch(r"podferry, version \d+\.\d+\.\d+\n", run("--version").out)


def test_without_a_command_the_help_is_shown() -> None:
    result = run()
    assert result.status == 2
    assert "Start with `podferry doctor`" in result.out + result.err


def test_an_error_of_our_tree_is_one_line_and_exit_status_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = tmp_path / "config.toml"
    config.write_text("cri.listen = 'here'")
    status, err = run_main(monkeypatch, capsys, "--config", str(config), "serve")
    assert status == 1
    assert err == (
        f"podferry: {config}: key cri.listen: it is 'here', wanted is an absolute path, '/...';"
        " see docs/settings.md for every key\n"
    )


def test_also_where_the_error_has_several_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(self: object, ctx: object, cmd_name: str) -> click.Command:
        raise Refused("first\nsecond\r\n\tthird", remedy="do\nit")

    monkeypatch.setattr(entry.LazyGroup, "get_command", fails)
    assert run_main(monkeypatch, capsys, "x") == (1, "podferry: first second third; do it\n")


def test_what_is_no_error_of_our_tree_is_not_hidden() -> None:
    """A traceback is what a bug report needs."""

    class Bug(Exception):
        pass

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(entry, "cli", lambda **_: (_ for _ in ()).throw(Bug()))
        with pytest.raises(Bug):
            entry.main()


@pytest.mark.parametrize(
    "arguments",
    [
        ("handover",),
        ("hold", "shop/web"),
        ("release", "hold-1-1"),
        ("status",),
        ("status", "--output", "json"),
        ("top",),
    ],
)
def test_a_service_that_does_not_run_is_said_so(
    no_service: str,
    arguments: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    status, err = run_main(monkeypatch, capsys, "--config", no_service, *arguments)
    assert status == 1
    last = err.splitlines()[-1]
    assert last.startswith(f"podferry: {Path(no_service).parent}/control.sock: ")
    assert "does not answer" in last
    assert "Traceback" not in err


@pytest.mark.parametrize("command", ["serve", "status", "hold"])
def test_a_settings_file_that_was_named_must_exist(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--config", "/nowhere/x.toml", command, *(["a/b"] if command == "hold" else []))
    status, err = run_main(monkeypatch, capsys, *arguments)
    assert status == 1
    assert err.startswith("podferry: /nowhere/x.toml: cannot be read: No such file or directory")


def test_naming_a_command_imports_no_other() -> None:
    """The service must start fast and small."""
    script = (
        "import sys, shim.cli.main as m, click;"
        "m.cli.get_command(click.Context(m.cli), 'serve');"
        "print(*sorted(n for n in sys.modules if n.split('.')[0] in ('shim', 'rich', 'grpc')))"
    )
    out = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    ).stdout.split()
    assert {n for n in out if n.startswith("shim.cli.")} == {"shim.cli.main", "shim.cli.serve"}
    assert not {"rich", "grpc"} & set(out)


def test_every_error_of_our_tree_is_caught_by_the_entry_point() -> None:
    assert issubclass(Refused, PodferryError)


def test_the_service_starts_without_what_it_loads_later() -> None:
    """And loads it then: an upgrade on disk must not be mixed into a running process."""
    script = (
        "import sys, asyncio, shim.server.service; from shim.server import deferred;"
        "deferred.AFTER_S = 0.0;"
        "before = {n for n in deferred.MODULES if n in sys.modules and n.startswith('shim.')};"
        "asyncio.run(deferred.load());"
        "print(before, set(deferred.MODULES) - set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "set() set()"
