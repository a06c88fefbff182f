# SPDX-License-Identifier: Apache-2.0
"""Owns what a round of critest is, whether it holds, and how it is told. Pure: it runs nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.conformance import compare
from tests.conformance.compare import Difference, Outcome, Report, Verdict
from tests.conformance.ways import Way

# A run's own share of podferry's calls and of monitors; what comes between two looks is not seen.
MOST = 0.9
FEW = 0.1
# A way on which more is lost than this is broken: its specs are not tried again.
WORTH_ANOTHER_TRY = 10


@dataclass(frozen=True)
class Run:
    """One run of critest.

    Attributes:
        way: which one it took.
        report: its specs.
        took_s: how long it took.
        shim_calls: how many calls podferry passed on meanwhile.
        created: how many containers were started through podferry meanwhile.
        monitors: how many container monitors there were meanwhile.
        monitors_left: how many of them outlived their pods.
        handovers: how often podferry was replaced meanwhile.
    """

    way: Way
    report: Report
    took_s: float
    shim_calls: int
    started: int = 0
    monitors: int = 0
    monitors_left: int = 0
    handovers: int = 0


@dataclass(frozen=True)
class Round:
    """One run for each way with one seed.

    Attributes:
        seed: the seed.
        direct: what the others are measured by: containerd's socket, bare runc.
        others: the other ways' runs.
        again: by way, the lost specs that passed each time when they were tried again alone.
    """

    seed: int
    direct: Run
    others: tuple[Run, ...]
    again: Mapping[str, frozenset[str]] = field(default_factory=dict)

    @property
    def runs(self) -> tuple[Run, ...]:
        """All of them."""
        return (self.direct, *self.others)

    def verdict(self, run: Run) -> Verdict:
        """One of the others, judged."""
        return compare.compare(self.direct.report, run.report)

    def to_try(self, run: Run) -> frozenset[str]:
        """The specs of one of the others that are worth another try, alone."""
        lost = frozenset(pair.name for pair in self.verdict(run).lost)
        return lost if len(lost) <= WORTH_ANOTHER_TRY else frozenset()

    def lost(self, run: Run) -> list[Difference]:
        """What one of the others has lost, and did not get back when tried alone."""
        steady = self.again.get(run.way.name, frozenset())
        return [pair for pair in self.verdict(run).lost if pair.name not in steady]

    def unsteady(self, run: Run) -> list[Difference]:
        """What one of the others has lost only among all other specs."""
        steady = self.again.get(run.way.name, frozenset())
        return [pair for pair in self.verdict(run).lost if pair.name in steady]

    @property
    def holds(self) -> bool:
        """Whether nothing was lost on any way, and each run took the way that it claims."""
        return not any(self.lost(run) for run in self.others) and not [*self.astray()]

    def astray(self) -> Iterator[str]:
        """What tells that a run did not take the way that it claims, or left something on it."""
        most = max(run.shim_calls for run in self.runs)
        for run in self.runs:
            if not run.way.through_shim and run.shim_calls >= FEW * most:
                yield f"{run.way.name}: {run.shim_calls} calls went through podferry"
            if run.way.through_shim and run.shim_calls < FEW * most:
                yield f"{run.way.name}: only {run.shim_calls} calls went through podferry"
            if not run.way.monitored and run.monitors:
                yield f"{run.way.name}: {run.monitors} containers had a monitor"
            if run.way.monitored and run.monitors < max(1.0, MOST * run.started):
                yield f"{run.way.name}: {run.monitors} monitors for {run.started} containers"
            if run.monitors_left:
                yield f"{run.way.name}: {run.monitors_left} monitors outlived their pods"


def lines(one: Round, number: int) -> Iterator[str]:
    """Tells one round to eyes."""
    yield f"round {number}, seed {one.seed}"
    for run in one.runs:
        counts = compare.count(run.report)
        yield (
            f"  {run.way.name:<8}{len(run.report):>4} specs {counts[Outcome.PASSED]:>4} passed"
            f"{counts[Outcome.FAILED]:>4} failed{counts[Outcome.SKIPPED]:>4} skipped"
            f"{run.took_s:>8.1f} s{run.shim_calls:>7} calls through podferry"
            + (f", {run.monitors} monitors" if run.way.monitored else "")
            + (f", {run.handovers} handovers" if run.handovers else "")
        )
    for run in one.others:
        for title, pairs in (
            ("LOST", one.lost(run)),
            ("unsteady", one.unsteady(run)),
            ("other", one.verdict(run).other),
        ):
            yield from (_difference(title, run.way, pair) for pair in pairs)
    yield from (f"  ASTRAY: {text}" for text in one.astray())


def figures(rounds: list[Round]) -> dict[str, Any]:
    """What the last line tells: sets over all rounds, and each round's counts."""
    every = [run for one in rounds for run in one.runs]
    reports: dict[str, list[Report]] = {}
    for run in every:
        reports.setdefault(run.way.name, []).append(run.report)
    others = [name for name in reports if name != "direct"]
    pairs = [(one, run) for one in rounds for run in one.others]
    failed = {
        name for report in reports["direct"] for name in compare.names(report, Outcome.FAILED)
    }
    lost = [(run.way.name, pair.name) for one, run in pairs for pair in one.lost(run)]
    return {
        "rounds": len(rounds),
        "specs": len({name for run in every for name in run.report}),
        **{f"passed_{way}": len(compare.always(reports[way], Outcome.PASSED)) for way in reports},
        "failed_direct": sorted(failed),
        **{
            f"failed_only_through_{way}": sorted({spec for other, spec in lost if other == way})
            for way in others
        },
        "unsteady": sorted(
            {f"{run.way.name}: {pair.name}" for one, run in pairs for pair in one.unsteady(run)}
        ),
        "other_differences": sorted(
            {pair.name for one, run in pairs for pair in one.verdict(run).other}
        ),
        "skipped": len(compare.always([run.report for run in every], Outcome.SKIPPED)),
        "astray": [text for one in rounds for text in one.astray()],
        "per_round": [
            {"seed": one.seed, **{run.way.name: _counts(run) for run in one.runs}} for one in rounds
        ],
    }


def _difference(title: str, way: Way, pair: Difference) -> str:
    reason = (pair.through.reason or pair.direct.reason)[:300]
    return (
        f"  {title}: {pair.name}: direct {pair.direct.outcome.value}, "
        f"{way.title} {pair.through.outcome.value}: {reason}"
    )


def _counts(run: Run) -> dict[str, Any]:
    return {
        **{kind.value: n for kind, n in compare.count(run.report).items() if n},
        "took_s": round(run.took_s, 1),
        "calls_through_shim": run.shim_calls,
        "handovers": run.handovers,
        **({"started": run.started, "monitors": run.monitors} if run.way.monitored else {}),
    }
