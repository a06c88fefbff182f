# SPDX-License-Identifier: Apache-2.0
"""Lays findings out for people: a table on a terminal, plain lines for everything else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from rich.console import Console, Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from shim.doctor.model import Finding, State

# Every state is a word; colour only repeats it, and no two that matter differ in red and green.
STYLES = {
    State.OK: "blue",
    State.WARNING: "yellow",
    State.MISSING: "bold reverse",
    State.UNKNOWN: "bold",
    State.SKIPPED: "dim",
}
AMISS = (State.MISSING, State.UNKNOWN, State.WARNING)
STATE_CHARS = max(len(state) for state in State)


def summary(findings: Sequence[Finding], status: int) -> str:
    """One line: how many of each state, and what the exit status means."""
    counts = {state: sum(one.state is state for one in findings) for state in State}
    told = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    if status == 0:
        return f"{told}. Everything that passthrough, checkpoint and restore need is here."
    return f"{told}. Something that is needed is not here, or could not be found out."


def plain(findings: Sequence[Finding], status: int) -> str:
    """Lines for pipes and logs: never wrapped, no control sequences."""
    id_chars = max((len(one.id) for one in findings), default=0)
    lines = [f"{one.state:<{STATE_CHARS}} {one.id:<{id_chars}} {one.found}" for one in findings]
    return "\n".join([*map(_one_line, lines), "", *_remedies(findings), summary(findings, status)])


def _one_line(text: str) -> str:
    return " ".join(text.split("\n"))


def _need(one: Finding) -> str:
    parts = ", ".join(one.parts)
    return f"needed for {parts}" if one.required else f"used for {parts}"


def _remedies(findings: Sequence[Finding]) -> Iterator[str]:
    for one in sorted(findings, key=lambda one: (not one.required, one.id)):
        if one.state in AMISS:
            yield f"{one.id} ({_need(one)}: {one.meaning})"
            if one.remedy:
                yield f"    -> {one.remedy}"
            yield ""


def table(findings: Sequence[Finding], status: int) -> Group:
    """Grouped by area, what is amiss with its meaning and remedy underneath."""
    parts: list[Text | Padding] = []
    for area, group in groupby(findings, key=lambda one: one.area):
        grid = Table.grid(padding=(0, 2))
        grid.add_column(width=STATE_CHARS)
        grid.add_column(ratio=2)
        grid.add_column(ratio=5)
        for one in group:
            grid.add_row(Text(one.state, STYLES[one.state]), one.title, Text(one.found))
            if one.state in AMISS:
                grid.add_row("", "", Text(f"{_need(one)}: {one.meaning}", "dim"))
                if one.remedy:
                    grid.add_row("", "", Text(f"-> {one.remedy}", "bold"))
        parts += [Text(area, "bold underline"), Padding(grid, (0, 0, 1, 2))]
    return Group(*parts, Text(summary(findings, status), "bold"))


def show(findings: Sequence[Finding], status: int, console: Console) -> None:
    """Writes the report in the form that suits the console."""
    if console.is_terminal:
        console.print(table(findings, status))
    else:
        console.file.write(plain(findings, status) + "\n")
