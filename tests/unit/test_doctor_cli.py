# SPDX-License-Identifier: Apache-2.0
"""The command: which checks run, what is printed, and the exit status."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from itertools import groupby
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from shim.cli import doctor as command
from shim.cli.main import cli
from shim.doctor import facts as f
from shim.doctor.checks import CHECKS
from shim.doctor.model import Check, Part, State, Verdict, exit_status, finding
from shim.doctor.report import show
from shim.settings import Settings

DOCS = Path(__file__).parents[2] / "docs" / "doctor.md"
FACTS = f.Kernel("6.12.0", "x86_64")


def nothing(settings: Settings) -> f.Kernel:
    return FACTS


def check(name: str, state: State, *, required: bool) -> Check:
    remedy = "" if state in (State.OK, State.SKIPPED) else f"mend {name}"
    verdict = Verdict(state, f"saw {name}", remedy)
    return Check(
        name, f"Title {name}", (Part.SLEEP,), required, "why", f.Kernel, nothing, lambda _: verdict
    )


def run(monkeypatch: pytest.MonkeyPatch, checks: list[Check], *arguments: str) -> Result:
    monkeypatch.setattr(command, "CHECKS", checks)
    return CliRunner().invoke(cli, ["doctor", *arguments])


GOOD = [
    check("a.one", State.OK, required=True),
    check("a.two", State.SKIPPED, required=True),
]


@pytest.mark.parametrize(
    ("state", "required", "strict", "status"),
    [
        (State.OK, True, True, 0),
        (State.SKIPPED, True, True, 0),
        (State.WARNING, True, False, 0),
        (State.WARNING, False, True, 1),
        (State.MISSING, True, False, 1),
        (State.MISSING, False, False, 0),
        (State.MISSING, False, True, 1),
        (State.UNKNOWN, True, False, 1),
        (State.UNKNOWN, False, False, 0),
        (State.UNKNOWN, False, True, 1),
    ],
)
def test_exit_status(
    monkeypatch: pytest.MonkeyPatch, state: State, required: bool, strict: bool, status: int
) -> None:
    checks = [*GOOD, check("b.three", state, required=required)]
    arguments = ["--strict"] if strict else []
    assert run(monkeypatch, checks, *arguments).exit_code == status
    findings = [finding(one, one.judge(FACTS)) for one in checks]
    assert exit_status(findings, strict=strict) == status


def test_json_has_every_field_of_every_check(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = [*GOOD, check("b.three", State.MISSING, required=True)]
    result = run(monkeypatch, checks, "--output", "json")
    document = json.loads(result.stdout)
    assert document["exit_status"] == result.exit_code == 1
    assert [one["id"] for one in document["checks"]] == ["a.one", "a.two", "b.three"]
    assert document["checks"][2] == {
        "id": "b.three",
        "area": "b",
        "title": "Title b.three",
        "state": "missing",
        "required": True,
        "parts": ["sleep"],
        "found": "saw b.three",
        "meaning": "why",
        "remedy": "mend b.three",
    }


def test_plain_lines_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = [*GOOD, check("b.three", State.MISSING, required=True)]
    lines = run(monkeypatch, checks).stdout.splitlines()
    assert lines[:3] == [
        "ok      a.one   saw a.one",
        "skipped a.two   saw a.two",
        "missing b.three saw b.three",
    ]
    assert "b.three (needed for sleep: why)" in lines
    assert "    -> mend b.three" in lines
    assert lines[-1].startswith("1 ok, 1 missing, 1 skipped.")


def test_the_table_says_states_in_words_and_needs_no_colour() -> None:
    checks = [*GOOD, check("b.three", State.MISSING, required=False)]
    findings = [finding(one, one.judge(FACTS)) for one in checks]
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=100, no_color=True)
    show(findings, 0, console)
    shown = re.sub(r"\x1b\[[0-9;]*m", "", text.getvalue())
    for word in ("ok", "skipped", "missing", "Title b.three", "-> mend b.three", "used for sleep"):
        assert word in shown
    assert "\x1b[3" not in text.getvalue(), "a colour where none was wanted"


@pytest.mark.parametrize(
    ("only", "ids"),
    [
        (["a"], ["a.one", "a.two"]),
        (["b.three"], ["b.three"]),
        (["b", "a.two"], ["a.two", "b.three"]),
        ([], ["a.one", "a.two", "b.three"]),
    ],
)
def test_only(monkeypatch: pytest.MonkeyPatch, only: list[str], ids: list[str]) -> None:
    checks = [*GOOD, check("b.three", State.OK, required=False)]
    arguments = [word for name in only for word in ("--only", name)]
    result = run(monkeypatch, checks, "--output", "json", *arguments)
    assert [one["id"] for one in json.loads(result.stdout)["checks"]] == ids


@pytest.mark.parametrize("arguments", [["--only", "nothing"], ["--output", "xml"], ["extra"]])
def test_a_wrong_command_line_is_status_2(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    result = run(monkeypatch, GOOD, *arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.output


def test_an_unknown_check_names_the_known_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    result = run(monkeypatch, GOOD, "--only", "a.three")
    assert "no check a.three" in result.output
    assert "a.one, a.two" in result.output


def test_probes_get_the_settings_that_were_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = tmp_path / "config.toml"
    config.write_text('[cri]\nruntime = "/run/other.sock"\n', "utf-8")

    def probe(settings: Settings) -> f.Kernel:
        return f.Kernel(settings.cri.runtime, "")

    judge: Callable[[f.Kernel], Verdict] = lambda facts: Verdict(State.OK, facts.release)  # noqa: E731
    checks = [Check("a.one", "One", (Part.SLEEP,), True, "why", f.Kernel, probe, judge)]
    monkeypatch.setattr(command, "CHECKS", checks)
    result = CliRunner().invoke(cli, ["--config", str(config), "doctor"])
    assert "/run/other.sock" in result.stdout


def test_the_checks_have_ids_of_their_own_and_are_grouped_by_area() -> None:
    ids = [one.id for one in CHECKS]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-z]+\.[a-z_]+", name) for name in ids)
    areas = [one.area for one in CHECKS]
    assert len({*areas}) == len([area for area, _ in groupby(areas)])


def test_every_check_is_in_the_documentation() -> None:
    documented = set(re.findall(r"^\| `([a-z]+\.[a-z_]+)` \|", DOCS.read_text("utf-8"), re.M))
    assert documented == {one.id for one in CHECKS}
