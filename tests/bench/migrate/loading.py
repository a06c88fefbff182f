# SPDX-License-Identifier: Apache-2.0
"""Holds load.py on a node that is neither source nor target, and asks it what its users felt."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.testbed.errors import NodeFailed
from tests.testbed.node import Node

SCRIPT = "/var/tmp/podferry-load.py"


class Loading:
    """load.py; a context manager that ends it.

    Args:
        node: where it runs.
        address: of the redis.
        port: of the redis.
        idle: connections that say nothing.
    """

    def __init__(self, node: Node, address: str, port: int, idle: int) -> None:
        node.write(SCRIPT, Path(__file__).with_name("load.py").read_bytes())
        argv = ["/usr/bin/python3", "-u", SCRIPT, address, str(port), str(idle)]
        self._process = subprocess.Popen(
            node.inside.argv(argv), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._read()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()

    def begin(self) -> None:
        """Counts anew from here on."""
        self._ask("begin")

    def end(self) -> dict[str, Any]:
        """What was felt since."""
        return self._ask("end")

    def timeline(self) -> dict[str, Any]:
        """The same, with the longest answer of each 20 ms."""
        return self._ask("timeline")

    def check(self) -> dict[str, Any]:
        """Has every idle connection ask; the totals."""
        return self._ask("check")

    def _ask(self, word: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise NodeFailed("the load has ended", where=f"status {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer
