# SPDX-License-Identifier: Apache-2.0
"""The form of the judges' tests: facts in, verdict out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from shim.doctor.model import State


@dataclass(frozen=True)
class Case:
    """Facts, the state they mean, and a word that the finding or the remedy must hold."""

    what: str
    judge: Callable[[Any], Any]
    facts: Any
    state: State
    word: str = ""

    def check(self) -> None:
        """Judges, and fails where the verdict is not the one that was foreseen."""
        verdict = self.judge(self.facts)
        assert verdict.state is self.state, verdict
        assert verdict.found
        assert self.word in verdict.found + " " + verdict.remedy
        if self.state in (State.OK, State.SKIPPED):
            assert verdict.remedy == ""
        if self.state is State.MISSING:
            assert verdict.remedy, "what is missing has a remedy"
