# SPDX-License-Identifier: Apache-2.0
"""Puts a program that the user gave into a node, or says that none was given."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from shim.errors import InvalidInput
from tests.testbed.node import Node

INSIDE = "/var/lib/node/conformance/bin"


def given(path: str, *, name: str) -> Path | None:
    """The program at that path; None where no path was given.

    Raises:
        InvalidInput: a path was given and no program stands there.
    """
    if not path:
        return None
    program = Path(path)
    if not program.is_file() or not os.access(program, os.X_OK):
        raise InvalidInput(
            "is not an executable file", where=path, remedy=f"give the path of {name}, or none"
        )
    return program


def put(node: Node, program: Path) -> str:
    """Copies it into the node; returns its path there."""
    target = node.path(f"{INSIDE}/{program.name}")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(program, target)
    target.chmod(0o755)
    return f"{INSIDE}/{program.name}"
