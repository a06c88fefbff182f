# SPDX-License-Identifier: Apache-2.0
"""Reads critest's reports and judges them: what passes directly must pass on the other ways too.

Pure: text in, verdicts out; it runs nothing.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from xml.etree import ElementTree

from shim.errors import InvalidInput


class Outcome(enum.Enum):
    """How a spec ended."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"
    ABSENT = "absent"


# From best to worst: where two specs have one name, the worse one speaks for both.
_WORSE = (Outcome.SKIPPED, Outcome.PASSED, Outcome.FAILED)


@dataclass(frozen=True)
class Spec:
    """One spec of one run.

    Attributes:
        outcome: how it ended.
        took_s: how long it took.
        reason: the failure's or the skip's text, "" if it passed.
    """

    outcome: Outcome
    took_s: float = 0.0
    reason: str = ""


Report = Mapping[str, Spec]
DECORATIONS = re.compile(r"( \[[^\]]*\])+$")
ABSENT = Spec(Outcome.ABSENT)


@dataclass(frozen=True)
class Difference:
    """A spec that did not end alike.

    Attributes:
        name: the spec.
        direct: on the runtime's own socket, with bare runc.
        through: on the other way.
    """

    name: str
    direct: Spec
    through: Spec


@dataclass(frozen=True)
class Verdict:
    """One way of one round, judged.

    Attributes:
        lost: specs that pass directly and do not pass on the way: failed, skipped or absent.
        other: every other difference; they are told but do not fail a round.
    """

    lost: tuple[Difference, ...]
    other: tuple[Difference, ...]

    @property
    def passes(self) -> bool:
        """Whether nothing was lost."""
        return not self.lost


def parse(junit: str, *, where: str) -> dict[str, Spec]:
    """The specs of a JUnit report as ginkgo writes it.

    Nodes around the specs (BeforeSuite, ReportAfterSuite) are left out, unless they failed.

    Raises:
        InvalidInput: the text is no such report, or has no spec.
    """
    try:
        root = ElementTree.fromstring(junit)
    except ElementTree.ParseError as error:
        raise InvalidInput(
            f"is no JUnit report: {error}", where=where, remedy="critest must end by itself"
        ) from error
    specs: dict[str, Spec] = {}
    for case in root.iter("testcase"):
        name, spec = case.get("name", ""), _spec(case)
        if not name.startswith("[It]") and spec.outcome is not Outcome.FAILED:
            continue
        name = name.removeprefix("[It]").strip()
        if name not in specs or _rank(spec) > _rank(specs[name]):
            specs[name] = spec
    if not specs:
        raise InvalidInput("has no spec", where=where, remedy="see critest's log beside it")
    return specs


def compare(direct: Report, through: Report) -> Verdict:
    """Judges one way by what the direct one gave."""
    lost: list[Difference] = []
    other: list[Difference] = []
    for name in sorted({*direct, *through}):
        pair = Difference(name, direct.get(name, ABSENT), through.get(name, ABSENT))
        if pair.direct.outcome is pair.through.outcome:
            continue
        (lost if pair.direct.outcome is Outcome.PASSED else other).append(pair)
    return Verdict(tuple(lost), tuple(other))


def count(report: Report) -> dict[Outcome, int]:
    """How many specs ended how."""
    return {kind: sum(one.outcome is kind for one in report.values()) for kind in Outcome}


def names(report: Report, outcome: Outcome) -> frozenset[str]:
    """The specs that ended so."""
    return frozenset(name for name, spec in report.items() if spec.outcome is outcome)


def focus(specs: Iterable[str]) -> str:
    """A regular expression for critest that matches these specs, and maybe some more.

    ginkgo puts labels and decorations behind a spec's name in reports; it does not match them.
    """
    return "|".join(re.escape(DECORATIONS.sub("", name)) for name in sorted(specs))


def always(reports: Iterable[Report], outcome: Outcome) -> frozenset[str]:
    """The specs that ended so in every one of the runs."""
    sets = [names(report, outcome) for report in reports]
    return frozenset.intersection(*sets) if sets else frozenset()


def _spec(case: ElementTree.Element) -> Spec:
    took_s = float(case.get("time") or 0)
    for tag in ("failure", "error"):
        found = case.find(tag)
        if found is not None:
            return Spec(Outcome.FAILED, took_s, _reason(found))
    skipped = case.find("skipped")
    if skipped is not None:
        return Spec(Outcome.SKIPPED, took_s, _reason(skipped))
    status = case.get("status", "passed")
    if status in ("skipped", "pending"):
        return Spec(Outcome.SKIPPED, took_s, status)
    # A spec that was interrupted, or panicked, has a status and not always an element.
    return Spec(Outcome.PASSED if status == "passed" else Outcome.FAILED, took_s, "")


def _reason(element: ElementTree.Element) -> str:
    return " ".join((element.get("message") or element.text or "").split())


def _rank(spec: Spec) -> int:
    return _WORSE.index(spec.outcome)
