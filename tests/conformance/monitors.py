# SPDX-License-Identifier: Apache-2.0
"""Counts the container monitors that come and go on a node: the proof that containers had one."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.testbed.node import Node
from tests.testbed.process import POLL_S

# One directory for each monitor: made before the container, removed at its end.
MONITORS = "/run/podferry/monitors/k8s.io"
GONE_DEADLINE_S = 10.0


class Monitors:
    """Looks again and again until the block ends; a container lives for many looks.

    Args:
        node: where.

    Attributes:
        seen: the ids of the containers that had one.
    """

    def __init__(self, node: Node) -> None:
        self.seen: set[str] = set()
        self._place = node.path(MONITORS)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="monitors")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._end.wait(POLL_S):
            self.seen |= present(self._place)


def present(place: Path) -> set[str]:
    """The containers that have a monitor now."""
    try:
        return {one.name for one in place.iterdir()}
    except FileNotFoundError:
        return set()


def left(node: Node) -> set[str]:
    """The monitors that are still there although no pod is, after the time that an end may take."""
    deadline = time.monotonic() + GONE_DEADLINE_S
    while (still := present(node.path(MONITORS))) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    return still
