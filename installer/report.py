# SPDX-License-Identifier: Apache-2.0
"""Shows a plan to a person (steps with unified diffs) or to a program (plain data for JSON)."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from shim.installer.steps import (
    Annotate,
    AwaitSocket,
    Link,
    Remove,
    Restore,
    Run,
    SetAside,
    SetSysctl,
    Step,
    Write,
)


def as_data(steps: Iterable[Step]) -> list[dict[str, Any]]:
    """Each step as a mapping with an ``action`` and what belongs to it."""
    return [_as_mapping(step) for step in steps]


def as_text(steps: Iterable[Step]) -> str:
    """Each step as a line, with the diff of its file below."""
    parts = []
    for mapping in as_data(steps):
        words = [str(mapping.get(key, "")) for key in ("action", "path", "target", "command")]
        why = f"  # {mapping['why']}" if mapping.get("why") else ""
        parts.append(" ".join(word for word in words if word) + why + "\n")
        if diff := mapping.get("diff"):
            parts.append(diff + "\n")
    return "".join(parts)


def unified_diff(path: str, before: bytes | None, after: bytes | None) -> str:
    """The difference of two contents; /dev/null stands for an absent file."""
    old = (before or b"").decode("utf-8", "replace").splitlines(keepends=True)
    new = (after or b"").decode("utf-8", "replace").splitlines(keepends=True)
    names = ("/dev/null" if before is None else path, "/dev/null" if after is None else path)
    lines = []
    for line in difflib.unified_diff(old, new, *names):
        lines.append(line if line.endswith("\n") else line + "\n\\ No newline at end of file\n")
    return "".join(lines)


def _as_mapping(step: Step) -> dict[str, Any]:
    match step:
        case Write():
            diff = unified_diff(step.path, step.now, step.content)
            return {"action": "write", "path": step.path, "why": step.why, "diff": diff}
        case Restore():
            diff = unified_diff(step.path, step.now, step.content)
            return {"action": "restore", "path": step.path, "why": step.why, "diff": diff}
        case Remove():
            diff = unified_diff(step.path, step.now, None) if step.now is not None else ""
            return {"action": "remove", "path": step.path, "why": step.why, "diff": diff}
        case Link():
            return {"action": "link", "path": step.path, "target": step.target, "why": step.why}
        case SetAside():
            return {"action": "rename", "path": step.path, "target": step.to, "why": step.why}
        case SetSysctl():
            command = f"{step.record.key}={step.value}"
            return {"action": "sysctl", "command": command, "why": ""}
        case Run():
            return {"action": "run", "command": " ".join(step.arguments), "why": step.why}
        case AwaitSocket():
            return {"action": "wait", "path": step.path, "why": "until it answers Version"}
        case Annotate():
            why = "kubeadm reads the endpoint there"
            return {"action": "run", "command": " ".join(step.arguments), "why": why}
