# SPDX-License-Identifier: Apache-2.0
"""The two journals of a move, against every order of crashes, lost words and repetitions."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from shim.core.migration import (
    Pace,
    SourceRemedy,
    SourceStep,
    TargetRemedy,
    TargetStep,
    carried,
    pace,
    slowed_us,
    source_may,
    source_remedy,
    target_may,
    target_remedy,
)

S, T = SourceStep, TargetStep


class Move(RuleBasedStateMachine):
    """Two services that may stop between any two lines; monitors and journals outlive them."""

    @initialize()
    def begin(self) -> None:
        self.mine, self.theirs = S.PLANNED, T.OFFERED
        self.source_up = self.target_up = True
        self.source_runs, self.target_runs, self.staged = True, False, False
        self.departed = False

    # ---- the source, line by line

    def write(self, step: SourceStep) -> None:
        assert source_may(self.mine, step), (self.mine, step)
        self.mine = step

    @precondition(lambda self: self.source_up and self.mine is S.PLANNED)
    @rule()
    def copy(self) -> None:
        self.write(S.COPYING)

    @precondition(lambda self: self.source_up and self.mine is S.COPYING)
    @rule()
    def freezing(self) -> None:
        self.write(S.FREEZING)

    @precondition(lambda self: self.source_up and self.mine is S.FREEZING)
    @rule()
    def freeze(self) -> None:
        self.source_runs = False

    @precondition(
        lambda self: self.source_up and self.target_up and self.mine is S.FREEZING
        and self.theirs is T.STAGED and not self.source_runs
    )  # fmt: skip
    @rule()
    def give_up(self) -> None:
        self.write(S.GAVE_UP)

    @precondition(lambda self: self.source_up and self.mine in (S.PLANNED, S.COPYING, S.FREEZING))
    @rule()
    def abandon(self) -> None:
        self.write(S.ABANDONED)
        self.source_runs = True

    @precondition(lambda self: self.source_up and self.mine is S.GAVE_UP)
    @rule(answered=st.booleans())
    def ask(self, answered: bool) -> None:
        """What the source does about GAVE_UP, at once or after a crash."""
        remedy = source_remedy(self.mine, self.theirs if self.target_up else None)
        if remedy is SourceRemedy.COMMIT and self.target_up:
            self.told_to_resume(answered)
        elif remedy is SourceRemedy.DROP and self.target_up:
            self.target_write(T.DROPPED)
        elif remedy is SourceRemedy.THAW:
            self.write(S.ABANDONED)
            self.source_runs = True
        elif remedy is SourceRemedy.DEPART:
            self.write(S.DEPARTED)
            self.departed = True

    @precondition(lambda self: self.source_up)
    @rule()
    def source_dies(self) -> None:
        self.source_up = False

    @precondition(lambda self: not self.source_up)
    @rule()
    def source_starts(self) -> None:
        self.source_up = True
        remedy = source_remedy(self.mine, self.theirs if self.target_up else None)
        if remedy in (SourceRemedy.ABANDON, SourceRemedy.THAW):
            self.write(S.ABANDONED)
            self.source_runs = True

    # ---- the target

    def target_write(self, step: TargetStep) -> None:
        assert target_may(self.theirs, step), (self.theirs, step)
        self.theirs = step
        if step is T.DROPPED:
            self.staged = False

    def told_to_resume(self, answered: bool) -> None:
        self.target_write(T.RESUMED)
        self.target_runs = True
        if answered:
            self.write(S.DEPARTED)

    @precondition(lambda self: self.target_up and self.source_up and self.mine is S.COPYING
                  and self.theirs is T.OFFERED)  # fmt: skip
    @rule()
    def prepared(self) -> None:
        self.target_write(T.PREPARED)

    @precondition(lambda self: self.target_up and self.mine is S.FREEZING
                  and not self.source_runs and self.theirs is T.PREPARED)  # fmt: skip
    @rule()
    def stage(self) -> None:
        self.staged = True
        self.target_write(T.STAGED)

    @precondition(lambda self: self.target_up and self.theirs in (T.OFFERED, T.PREPARED, T.STAGED))
    @rule()
    def target_gives_up(self) -> None:
        """Its restore fails, or it runs out of patience: it may always drop by itself."""
        self.target_write(T.DROPPED)

    @precondition(lambda self: self.target_up)
    @rule(half_way=st.booleans())
    def target_dies(self, half_way: bool) -> None:
        self.target_up = False
        if half_way and self.theirs is T.STAGED and self.mine is S.GAVE_UP:
            self.theirs = T.RESUMED  # written, and killed before the monitors were told
        elif self.theirs is T.STAGED:
            self.target_write(T.PREPARED)
            self.staged = False

    @precondition(lambda self: not self.target_up)
    @rule()
    def target_starts(self) -> None:
        self.target_up = True
        remedy = target_remedy(self.theirs, self.mine if self.source_up else None)
        if remedy is TargetRemedy.RESUME:
            self.target_write(T.RESUMED)
            self.target_runs = True
        elif remedy is TargetRemedy.DROP:
            self.target_write(T.DROPPED)

    # ---- what must hold

    @invariant()
    def at_most_one_runs(self) -> None:
        assert not (self.source_runs and self.target_runs)

    @invariant()
    def resumed_only_by_record(self) -> None:
        assert not self.target_runs or self.theirs is T.RESUMED
        assert not (self.theirs is T.RESUMED and self.source_runs)

    def teardown(self) -> None:
        """With both alive and answering, it runs on exactly one."""
        if not hasattr(self, "mine"):
            return
        for _ in range(6):
            if not self.target_up:
                self.target_starts()
            if not self.source_up:
                self.source_starts()
            if self.theirs is T.RESUMED:
                self.target_runs = True
            if self.mine is S.GAVE_UP:
                self.ask(answered=True)
            elif self.mine is S.FREEZING:
                self.abandon()
        assert self.source_runs + self.target_runs == 1
        self.at_most_one_runs()


TestMove = Move.TestCase
TestMove.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)


def test_every_pair_of_records_has_a_remedy() -> None:
    for mine, theirs in itertools.product(S, [None, *T]):
        assert source_remedy(mine, theirs) in SourceRemedy
    for theirs, mine in itertools.product(T, [None, *S]):
        assert target_remedy(theirs, mine) in TargetRemedy


@pytest.mark.parametrize(
    ("left", "expected"),
    [
        ([], Pace.ROUND),
        ([10 << 20], Pace.FREEZE),
        ([100 << 20], Pace.ROUND),
        ([100 << 20, 60 << 20], Pace.ROUND),
        ([100 << 20, 95 << 20, 96 << 20], Pace.THROTTLE),
        ([100 << 20, 95 << 20, 10 << 20], Pace.FREEZE),
    ],
)
def test_the_freeze_comes_when_the_rest_fits_the_budget(left: list[int], expected: Pace) -> None:
    assert pace(left, rate_bytes_per_s=1e9, budget_s=0.02, at_most=3) is expected


@pytest.mark.parametrize(
    ("had_us", "share", "expected"),
    [
        (-1, 0.5, 200_000),  # no quota: of all processors
        (50_000, 0.5, 25_000),
        (900_000, 0.5, 200_000),  # more than there is
        (1000, 0.08, 1000),  # the kernel takes no less
    ],
)
def test_a_slowed_pod_keeps_a_share_of_what_it_can_use(
    had_us: int, share: float, expected: int
) -> None:
    assert slowed_us(had_us, most_us=400_000, share=share) == expected


def test_addresses_do_not_become_more_with_every_move() -> None:
    assert carried(["10.0.0.2"], [], {"10.0.0.2"}) == ["10.0.0.2"]
    assert carried(["10.0.1.3"], ["10.0.0.2"], set()) == ["10.0.1.3", "10.0.0.2"]
    came = ["10.0.0.4", "10.0.1.3", "fd00::3", "10.0.0.2", "fd00::2"]
    assert carried(["10.0.1.5"], came, set()) == ["10.0.1.5", "10.0.0.2", "fd00::2"]
    assert carried(["10.0.1.5"], came, {"10.0.1.3"}) == [
        "10.0.1.5", "10.0.1.3", "10.0.0.2", "fd00::2",
    ]  # fmt: skip
