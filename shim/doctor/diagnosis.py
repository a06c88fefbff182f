# SPDX-License-Identifier: Apache-2.0
"""Runs checks: each probe in a process of its own, each outcome judged, nothing left undecided."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import msgspec

from shim.doctor.isolation import Outcome, Task, run_all
from shim.doctor.model import Check, Finding, Verdict, finding, unknown
from shim.settings import Settings


def diagnose(checks: Sequence[Check], settings: Settings) -> list[Finding]:
    """Gives the findings in the checks' order; none of them raises.

    A probe that several checks share runs once.
    """
    tasks = {
        check.probe: Task(partial(_encode, check.probe, settings), check.deadline_s)
        for check in checks
    }
    outcomes = dict(run_all(tasks))
    return [finding(check, _judge(check, outcomes[check.probe])) for check in checks]


def _encode(probe: Callable[[Settings], Any], settings: Settings) -> bytes:
    return msgspec.json.encode(probe(settings))


def _judge(check: Check, outcome: Outcome) -> Verdict:
    if outcome.problem.startswith(PermissionError.__name__):
        return unknown(outcome.problem, "run as root")
    if outcome.problem:
        return unknown(outcome.problem, "run `podferry doctor` again; if it stays, report a bug")
    try:
        verdict: Verdict = check.judge(msgspec.json.decode(outcome.data, type=check.facts))
    except Exception as error:  # a judge that fails must not hide what the others found
        return unknown(f"{type(error).__name__}: {error}", "report this as a bug")
    return verdict
