# SPDX-License-Identifier: Apache-2.0
"""Finds and changes the value of a command-line flag in unit files, environment files, args files.

Works on regions: the parts of a file that really reach kubelet's command line.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from shim.errors import InstallRefused
from shim.installer.edits import Edit, Edited


@dataclass(frozen=True)
class Region:
    """A part of a file's text, by positions in it.

    Attributes:
        path: the file.
        start: first character.
        end: one behind the last.
        what: how a person would name it ("ExecStart", "KUBELET_EXTRA_ARGS").
    """

    path: str
    start: int
    end: int
    what: str


def flag_pattern(flag: str) -> re.Pattern[str]:
    """Matches the flag with its value; group ``value`` is the value without quotes.

    Kubelet takes underscores for dashes and both ``--flag=value`` and ``--flag value``.
    """
    name = flag.replace("-", "[-_]")
    return re.compile(rf"(?<![\w-])--{name}(?:=|[ \t]+)[\"']?(?P<value>[^\s\"'\\]*)")


def find_values(text: str, regions: Iterable[Region], flag: str) -> list[str]:
    """Every value given to the flag in these regions of one text, in their order."""
    return [found["value"] for found in _matches(text, regions, flag)]


def set_flag(
    text: str, regions: Iterable[Region], flag: str, value: str, where: str
) -> Edited | None:
    """Sets the flag's value wherever the regions give it.

    Returns:
        The new text, None if no place gives another value.

    Raises:
        InstallRefused: the flag is given several values, so putting them back would be a guess.
    """
    found = [m for m in _matches(text, regions, flag) if m["value"] != value]
    formers = {m["value"] for m in found}
    if not found:
        return None
    if len(formers) > 1:
        raise InstallRefused(
            f"--{flag} is given {len(formers)} different values",
            where=where,
            remedy="leave the one that kubelet shall use",
        )
    edit = Edit("flag", flag, value, formers.pop())
    return Edited(_splice(text, found, value).encode(), edit)


def put_back(text: str, edit: Edit) -> bytes | None:
    """Gives the flag its former value wherever it has ours, None if it has it nowhere."""
    whole = [Region("", 0, len(text), "")]
    found = [m for m in _matches(text, whole, edit.key) if m["value"] == edit.value]
    return _splice(text, found, edit.former or "").encode() if found else None


def _matches(text: str, regions: Iterable[Region], flag: str) -> list[re.Match[str]]:
    pattern = flag_pattern(flag)
    found = [m for r in regions for m in pattern.finditer(text, r.start, r.end)]
    return sorted(found, key=lambda m: m.start())


def _splice(text: str, found: list[re.Match[str]], value: str) -> str:
    for match in reversed(found):
        text = text[: match.start("value")] + value + text[match.end("value") :]
    return text
