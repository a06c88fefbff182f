# SPDX-License-Identifier: Apache-2.0
"""Decides about a pod's move: which step follows which, and what a service that starts does next.

Two nodes write down what they are about to do, each in its own journal (docs/migration.md). The
source may let the pod run on until it has written GAVE_UP, and after that only if the target has
written DROPPED. The target may let it run only if it has written RESUMED, which it does only when
told to, and never once it has written DROPPED. So the pod runs on at most one of them, whatever
stops in between, and on exactly one as soon as both answer.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping, Sequence


class SourceStep(enum.StrEnum):
    """What the source has last written down."""

    PLANNED = "planned"  # the target was asked; nothing of the pod was touched
    COPYING = "copying"  # memory and files go over while the pod runs
    FREEZING = "freezing"  # its packets are held, its tasks stand still or are about to
    GAVE_UP = "gave up"  # the source does not let it run on by itself any more
    DEPARTED = "departed"  # the target has said that it runs there
    SETTLED = "settled"  # nothing is left to do
    ABANDONED = "abandoned"  # it runs on here; the target was told or will be


class TargetStep(enum.StrEnum):
    """What the target has last written down."""

    OFFERED = "offered"  # a replacement may be made
    PREPARED = "prepared"  # the replacement's containers are claimed
    STAGED = "staged"  # tasks are restored and stopped; not on disk, so that it costs no freeze
    RESUMED = "resumed"  # it runs here
    DROPPED = "dropped"  # it never ran here and never will, in this epoch


class SourceRemedy(enum.StrEnum):
    """What the source does about its record."""

    NOTHING = "nothing"
    ABANDON = "abandon"  # it was not touched: drop the copy
    THAW = "thaw"  # let it run on, drop the copy
    COMMIT = "commit"  # tell the target once more
    DROP = "drop"  # ask the target to write DROPPED, then decide anew
    DEPART = "depart"  # end what stands still here, send packets over
    WAIT = "wait"  # in doubt: nobody runs until the target answers or somebody decides


class TargetRemedy(enum.StrEnum):
    """What the target does about its record."""

    NOTHING = "nothing"
    DROP = "drop"  # write DROPPED, then take the replacement away
    WAIT = "wait"  # for the source's word
    RESUME = "resume"  # let it run; may be done again


_SOURCE_ORDER: Mapping[SourceStep, frozenset[SourceStep]] = {
    SourceStep.PLANNED: frozenset({SourceStep.COPYING, SourceStep.ABANDONED}),
    SourceStep.COPYING: frozenset({SourceStep.FREEZING, SourceStep.ABANDONED}),
    SourceStep.FREEZING: frozenset({SourceStep.GAVE_UP, SourceStep.ABANDONED}),
    SourceStep.GAVE_UP: frozenset({SourceStep.DEPARTED, SourceStep.ABANDONED}),
    SourceStep.DEPARTED: frozenset({SourceStep.SETTLED}),
    SourceStep.SETTLED: frozenset(),
    SourceStep.ABANDONED: frozenset(),
}

_TARGET_ORDER: Mapping[TargetStep, frozenset[TargetStep]] = {
    TargetStep.OFFERED: frozenset({TargetStep.PREPARED, TargetStep.DROPPED}),
    TargetStep.PREPARED: frozenset({TargetStep.STAGED, TargetStep.DROPPED}),
    # PREPARED is what is on disk while the tasks are staged.
    TargetStep.STAGED: frozenset({TargetStep.RESUMED, TargetStep.DROPPED, TargetStep.PREPARED}),
    TargetStep.RESUMED: frozenset(),
    TargetStep.DROPPED: frozenset(),
}


def source_may(before: SourceStep, after: SourceStep) -> bool:
    """Whether the source may write ``after`` behind ``before``; the same again always may."""
    return before is after or after in _SOURCE_ORDER[before]


def target_may(before: TargetStep, after: TargetStep) -> bool:
    """Whether the target may write ``after`` behind ``before``; the same again always may."""
    return before is after or after in _TARGET_ORDER[before]


def source_remedy(mine: SourceStep, theirs: TargetStep | None) -> SourceRemedy:
    """What the source does about a record, at its start and whenever the target answers.

    Args:
        mine: its record.
        theirs: the target's record, None while it is silent. A target that knows nothing of the
            move writes DROPPED before it answers, so it always knows.
    """
    if mine in (SourceStep.PLANNED, SourceStep.COPYING):
        return SourceRemedy.ABANDON
    if mine in (SourceStep.FREEZING, SourceStep.ABANDONED):
        return SourceRemedy.THAW  # the target was not told to resume, or has dropped it
    if mine is SourceStep.GAVE_UP:
        return _in_doubt(theirs)
    if mine is SourceStep.DEPARTED:
        return SourceRemedy.DEPART
    return SourceRemedy.NOTHING


def _in_doubt(theirs: TargetStep | None) -> SourceRemedy:
    if theirs is None:
        return SourceRemedy.WAIT
    return {
        TargetStep.OFFERED: SourceRemedy.DROP,
        TargetStep.PREPARED: SourceRemedy.DROP,  # what it had staged is lost
        TargetStep.STAGED: SourceRemedy.COMMIT,
        TargetStep.RESUMED: SourceRemedy.DEPART,
        TargetStep.DROPPED: SourceRemedy.THAW,
    }[theirs]


def target_remedy(mine: TargetStep, theirs: SourceStep | None) -> TargetRemedy:
    """What the target does about a record at its start.

    Args:
        mine: its record on disk, or STAGED where its process lives on.
        theirs: the source's record, None while it is silent.
    """
    if mine is TargetStep.RESUMED:
        return TargetRemedy.RESUME
    if mine is TargetStep.DROPPED:
        return TargetRemedy.NOTHING
    if mine is TargetStep.STAGED:
        if theirs is SourceStep.GAVE_UP:
            return TargetRemedy.RESUME
        if theirs in (None, SourceStep.FREEZING):
            return TargetRemedy.WAIT
    # The streams of a copy end with the process that took them, and so does what was staged.
    return TargetRemedy.DROP


class Pace(enum.StrEnum):
    """What comes after a round of the copy."""

    ROUND = "round"
    FREEZE = "freeze"
    THROTTLE = "throttle"  # it dirties memory faster than the link takes it


SLOWEST_GAIN = 0.8
"""A round that leaves more than this share of what the last one left has gained nothing."""


def pace(left_bytes: Sequence[int], rate_bytes_per_s: float, budget_s: float, at_most: int) -> Pace:
    """Whether the copy is near enough to the pod to freeze it.

    Args:
        left_bytes: what was dirty after each round so far; the newest is the last.
        rate_bytes_per_s: what the link was measured to take.
        budget_s: how long the last difference may take in the freeze.
        at_most: rounds, after which a copy that does not come nearer is throttled.
    """
    if not left_bytes:
        return Pace.ROUND
    if left_bytes[-1] <= rate_bytes_per_s * budget_s:
        return Pace.FREEZE
    gains = len(left_bytes) < 2 or left_bytes[-1] <= SLOWEST_GAIN * left_bytes[-2]
    if not gains and len(left_bytes) >= at_most:
        return Pace.THROTTLE
    return Pace.ROUND


SHARES = (0.5, 0.2, 0.08)
"""What a pod that dirties faster than the link keeps of its processor time, one after another."""
LEAST_QUOTA_US = 1000
"""The kernel takes no smaller quota (Documentation/scheduler/sched-bwc.rst)."""


def slowed_us(had_us: int, most_us: int, share: float) -> int:
    """The CPU quota of a slowed container.

    Args:
        had_us: its own, below 0 if it has none.
        most_us: what all processors give in a period.
        share: of what it can use.
    """
    able_us = most_us if had_us < 0 else min(had_us, most_us)
    return max(LEAST_QUOTA_US, int(able_us * share))


def carried(own: Sequence[str], came: Sequence[str], used: Collection[str]) -> list[str]:
    """The addresses that a pod takes along.

    Each node gives it one of its own. Those of nodes between stay only while a connection uses
    them, or they would become more with every move.

    Args:
        own: of its sandbox here.
        came: what it has brought, the oldest last.
        used: by its sockets.
    """
    first = {":" in one: one for one in came}  # of each family the one that it began with
    brought = [one for one in came if one in used or one in first.values()]
    return list(dict.fromkeys([*own, *brought]))
