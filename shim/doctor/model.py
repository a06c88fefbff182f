# SPDX-License-Identifier: Apache-2.0
"""The words of a diagnosis: states, parts of the product, checks and findings; no I/O."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from shim.settings import Settings

PROBE_DEADLINE_S = 15.0


class State(enum.StrEnum):
    """How a check came out.

    ``WARNING``: it works, or works less well, and something could be done. ``UNKNOWN``: the probe
    failed or was too slow, so nothing is known. ``SKIPPED``: it does not apply to this node.
    """

    OK = "ok"
    WARNING = "warning"
    MISSING = "missing"
    UNKNOWN = "unknown"
    SKIPPED = "skipped"


class Part(enum.StrEnum):
    """The parts of the product that a check's subject is needed for."""

    PASSTHROUGH = "passthrough"
    SLEEP = "sleep"
    MIGRATION = "migration"
    PRE_COPY = "pre-copy"
    REROUTE = "reroute"


CHECKPOINT = (Part.SLEEP, Part.MIGRATION)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a judge says.

    Attributes:
        state: how it came out.
        found: what was seen, in one line.
        remedy: what to do about it; "" if there is nothing to do.
    """

    state: State
    found: str
    remedy: str = ""


def ok(found: str) -> Verdict:
    """All is well."""
    return Verdict(State.OK, found)


def warning(found: str, remedy: str = "") -> Verdict:
    """It works, but could be better."""
    return Verdict(State.WARNING, found, remedy)


def missing(found: str, remedy: str = "") -> Verdict:
    """It is not there, or does not work."""
    return Verdict(State.MISSING, found, remedy)


def unknown(found: str, remedy: str = "") -> Verdict:
    """It could not be found out."""
    return Verdict(State.UNKNOWN, found, remedy)


def skipped(found: str) -> Verdict:
    """It does not apply here."""
    return Verdict(State.SKIPPED, found)


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report.

    Attributes:
        id: ``area.name``, for --only and for programs; stays the same between releases.
        title: what is looked at.
        parts: what it is needed for.
        required: whether passthrough or checkpoint and restore cannot do without it.
        meaning: what podferry does with it.
        facts: the type that ``probe`` returns.
        probe: looks at the machine.
        judge: pure.
        deadline_s: after which the probe is ended and the state is unknown.
    """

    id: str
    title: str
    parts: tuple[Part, ...]
    required: bool
    meaning: str
    facts: type[Any]
    probe: Callable[[Settings], Any]
    judge: Callable[[Any], Verdict]
    deadline_s: float = PROBE_DEADLINE_S

    @property
    def area(self) -> str:
        """The part of the id before the dot, under which the report groups checks."""
        return self.id.partition(".")[0]


class Finding(msgspec.Struct, frozen=True):
    """A check and how it came out: one object of the JSON report."""

    id: str
    area: str
    title: str
    state: State
    required: bool
    parts: tuple[Part, ...]
    found: str
    meaning: str
    remedy: str


def finding(check: Check, verdict: Verdict) -> Finding:
    """Joins a check and its verdict."""
    return Finding(
        id=check.id,
        area=check.area,
        title=check.title,
        state=verdict.state,
        required=check.required,
        parts=check.parts,
        found=verdict.found,
        meaning=check.meaning,
        remedy=verdict.remedy,
    )


def exit_status(findings: Sequence[Finding], *, strict: bool) -> int:
    """1 where something required is not there; with ``strict`` where anything is amiss."""
    amiss = {State.MISSING, State.UNKNOWN}
    for one in findings:
        if one.state in amiss and (one.required or strict):
            return 1
        if one.state is State.WARNING and strict:
            return 1
    return 0
