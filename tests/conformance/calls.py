# SPDX-License-Identifier: Apache-2.0
"""Reads what `podferry status` says of the service and its calls; adds them up over its lives."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tests.testbed import service
from tests.testbed.node import Node


@dataclass(frozen=True)
class Status:
    """The service at one moment.

    Attributes:
        pid: its process, as the node counts.
        calls: calls since it started, by method.
        errors: those of them that ended with another code than OK, by method.
    """

    pid: int
    calls: Counter[str]
    errors: Counter[str]


def status(node: Node) -> Status:
    """Asks the service on that node with the command that its users have.

    Raises:
        CommandFailed: it does not answer.
    """
    argv = [service.PODFERRY, "--config", service.CONFIG, "status", "--output", "json"]
    said: dict[str, Any] = json.loads(node.exec(argv).text)["service"]
    calls: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    for one in said["methods"]:
        name = one["method"].rpartition("/")[2]
        calls[name] += int(one["calls"])
        errors[name] += int(one["errors"])
    return Status(int(said["pid"]), calls, +errors)


@dataclass
class Tally:
    """Calls over several lives of the service: each is added just before its end."""

    calls: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)

    def add(self, last: Status) -> None:
        """Adds what a service had done when it was asked last."""
        self.calls += last.calls
        self.errors += last.errors

    def without(self, before: Status) -> Tally:
        """What was done since its first service gave that answer."""
        return Tally(self.calls - before.calls, self.errors - before.errors)

    @property
    def started(self) -> int:
        """How many containers were started: containerd asks its OCI runtime no earlier."""
        return self.calls["StartContainer"] - self.errors["StartContainer"]


def per_minute(before: Status, after: Status, took_s: float) -> dict[str, float]:
    """Calls a minute by method between two answers of one service."""
    done = after.calls - before.calls
    return {name: round(count * 60 / took_s, 1) for name, count in done.most_common()}
