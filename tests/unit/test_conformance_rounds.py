# SPDX-License-Identifier: Apache-2.0
"""What makes a round of critest hold: what passes directly passes on each way; no run strays."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.calls import Status, Tally
from tests.conformance.compare import Outcome, Report, Spec
from tests.conformance.monitors import present
from tests.conformance.rounds import Round, Run, figures, lines
from tests.conformance.ways import DIRECT, MONITOR, SHIM, chosen, in_turn

PASSED, FAILED = Spec(Outcome.PASSED), Spec(Outcome.FAILED, reason="boom")
REPORT: Report = {"a": PASSED, "b": FAILED}

DIRECTLY = Run(DIRECT, REPORT, 10.0, shim_calls=0)
THROUGH = Run(SHIM, REPORT, 11.0, shim_calls=1000, started=50)
MONITORED = Run(MONITOR, REPORT, 12.0, shim_calls=990, started=50, monitors=48)
GOOD = Round(2, DIRECTLY, (THROUGH, MONITORED))


def test_direct_is_first_and_the_monitor_only_comes_if_asked_for() -> None:
    assert chosen(monitor=False) == (DIRECT, SHIM)
    assert chosen(monitor=True) == (DIRECT, SHIM, MONITOR)


@pytest.mark.parametrize("monitor", [False, True])
def test_each_way_is_first_in_turn(monitor: bool) -> None:
    ways = chosen(monitor=monitor)
    orders = [in_turn(ways, number) for number in range(len(ways))]
    assert {order[0] for order in orders} == set(ways)
    assert all(set(order) == set(ways) for order in orders)
    assert in_turn(ways, len(ways)) == ways


def test_a_round_in_which_all_is_alike_holds() -> None:
    assert GOOD.holds
    assert not [*GOOD.astray()]


@pytest.mark.parametrize("way", [0, 1])
def test_a_spec_lost_on_any_way_fails_the_round(way: int) -> None:
    others = [THROUGH, MONITORED]
    others[way] = replace(others[way], report={"a": FAILED, "b": FAILED})
    bad = Round(2, DIRECTLY, tuple(others))
    assert not bad.holds
    (told,) = (line for line in lines(bad, 1) if "LOST" in line)
    assert told == f"  LOST: a: direct passed, {others[way].way.title} failed: boom"


def test_a_lost_spec_that_passes_alone_each_time_is_told_and_fails_nothing() -> None:
    lost = replace(MONITORED, report={"a": FAILED, "b": FAILED})
    bad = Round(2, DIRECTLY, (THROUGH, lost))
    assert bad.to_try(lost) == {"a"}
    assert bad.to_try(THROUGH) == frozenset()
    good = replace(bad, again={"monitor": frozenset({"a"})})
    assert good.holds
    assert any(line.startswith("  unsteady: a: direct passed") for line in lines(good, 1))
    told = figures([good])
    assert (told["failed_only_through_monitor"], told["unsteady"]) == ([], ["monitor: a"])
    assert not replace(bad, again={"shim": frozenset({"a"}), "monitor": frozenset()}).holds


def test_a_way_on_which_much_is_lost_is_not_tried_again() -> None:
    report = {str(number): PASSED for number in range(11)}
    nothing = replace(MONITORED, report={"11": PASSED})
    bad = Round(2, replace(DIRECTLY, report=report), (THROUGH, nothing))
    assert bad.to_try(nothing) == frozenset()
    assert len(bad.lost(nothing)) == len(report)


@pytest.mark.parametrize(
    ("direct", "others", "told"),
    [
        ({"shim_calls": 800}, [{}, {}], "direct: 800 calls went through podferry"),
        ({}, [{"shim_calls": 0}, {}], "shim: only 0 calls went through podferry"),
        ({"monitors": 3}, [{}, {}], "direct: 3 containers had a monitor"),
        ({}, [{"monitors": 1}, {}], "shim: 1 containers had a monitor"),
        ({}, [{}, {"monitors": 44}], "monitor: 44 monitors for 50 containers"),
        ({}, [{}, {"started": 0, "monitors": 0}], "monitor: 0 monitors for 0 containers"),
        ({}, [{}, {"monitors_left": 2}], "monitor: 2 monitors outlived their pods"),
    ],
)
def test_a_run_that_did_not_take_its_way_fails_the_round(
    direct: dict[str, Any], others: list[dict[str, Any]], told: str
) -> None:
    runs = tuple(
        replace(run, **change) for run, change in zip((THROUGH, MONITORED), others, strict=True)
    )
    bad = Round(2, replace(DIRECTLY, **direct), runs)
    assert [*bad.astray()] == [told]
    assert not bad.holds
    assert f"  ASTRAY: {told}" in lines(bad, 1)


def test_figures_tell_sets_by_way_and_counts_by_round() -> None:
    lost = replace(MONITORED, report={"a": FAILED, "b": PASSED})
    told = figures([GOOD, Round(3, DIRECTLY, (THROUGH, lost))])
    assert (told["rounds"], told["specs"]) == (2, 2)
    assert (told["passed_direct"], told["passed_shim"], told["passed_monitor"]) == (1, 1, 0)
    assert told["failed_direct"] == ["b"]
    assert told["failed_only_through_shim"] == []
    assert told["failed_only_through_monitor"] == ["a"]
    assert told["unsteady"] == []
    assert told["other_differences"] == ["b"]
    assert told["astray"] == []
    assert told["per_round"][0]["seed"] == 2
    assert told["per_round"][0]["monitor"] == {
        "passed": 1,
        "failed": 1,
        "took_s": 12.0,
        "calls_through_shim": 990,
        "handovers": 0,
        "started": 50,
        "monitors": 48,
    }


def test_figures_without_the_monitor_do_not_speak_of_it() -> None:
    told = figures([Round(2, DIRECTLY, (THROUGH,))])
    assert "passed_monitor" not in told
    assert set(told["per_round"][0]) == {"seed", "direct", "shim"}


def test_a_tally_counts_what_was_done_since_and_started_containers_without_failures() -> None:
    before = Status(1, Counter(StartContainer=3, Version=2), Counter(StartContainer=1))
    past = Tally()
    past.add(Status(1, Counter(StartContainer=6, Version=3), Counter(StartContainer=2)))
    past.add(Status(2, Counter(StartContainer=4), Counter()))
    done = past.without(before)
    assert done.calls == Counter(StartContainer=7, Version=1)
    assert done.started == 6


def test_monitors_are_the_directories_that_are_there(tmp_path: Path) -> None:
    assert present(tmp_path / "none yet") == set()
    (tmp_path / "0123").mkdir()
    assert present(tmp_path) == {"0123"}
