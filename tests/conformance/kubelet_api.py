# SPDX-License-Identifier: Apache-2.0
"""Reads kubelet's own HTTP endpoints on a node's loopback: pods, metrics, health, run, logs."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from tests.testbed.node import Node
from tests.testbed.process import Result

READ_ONLY = "http://127.0.0.1:10255"
HEALTH = "http://127.0.0.1:10248/healthz"
FULL = "https://127.0.0.1:10250"
SAMPLE = re.compile(r"^(?P<name>\w+)(?:\{(?P<labels>[^}]*)\})? (?P<value>\S+)$", re.MULTILINE)
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True)
class PodState:
    """A pod as kubelet sees it.

    Attributes:
        phase: "Pending", "Running", "Succeeded" or "Failed".
        ready: its condition Ready.
        ip: its address.
        restarts: by container.
        containers: the runtime's ids by container.
    """

    phase: str
    ready: bool
    ip: str
    restarts: dict[str, int]
    containers: dict[str, str]


class KubeletApi:
    """kubelet's endpoints.

    Args:
        node: where it runs.
    """

    def __init__(self, node: Node) -> None:
        self.node = node

    def is_healthy(self) -> bool:
        """What its health endpoint says; False if nobody answers."""
        return self._get(HEALTH).stdout == b"ok"

    def pods(self) -> dict[str, PodState]:
        """Its pods by name, without the node's name at the end; {} if it does not answer."""
        said = self._get(f"{READ_ONLY}/pods")
        if said.status != 0:
            return {}
        return {
            item["metadata"]["name"].removesuffix(f"-{self.node.name}"): _state(item)
            for item in json.loads(said.stdout)["items"] or []
        }

    def operations(self) -> tuple[Counter[str], Counter[str]]:
        """Its CRI operations and those of them that failed, by its own names of them."""
        said = self._get(f"{READ_ONLY}/metrics").text
        done = Counter(_by_label(said, "kubelet_runtime_operations_total", "operation_type"))
        failed = _by_label(said, "kubelet_runtime_operations_errors_total", "operation_type")
        return done, +Counter(failed)

    def run(self, namespace: str, pod: str, container: str, command: str) -> str:
        """Runs a command in a container, which kubelet does with ExecSync.

        Raises:
            CommandFailed: it refused, or the command failed.
        """
        place = quote(f"/run/{namespace}/{pod}-{self.node.name}/{container}")
        argv = ["curl", "-sSk", "--fail-with-body", "--max-time", "30", "-X", "POST"]
        return self.node.exec([*argv, f"{FULL}{place}?{urlencode({'cmd': command})}"]).text

    def logs(self, namespace: str, pod: str, container: str) -> str:
        """A container's log."""
        place = quote(f"/containerLogs/{namespace}/{pod}-{self.node.name}/{container}")
        argv = ["curl", "-sSk", "--fail-with-body", "--max-time", "30"]
        return self.node.exec([*argv, f"{FULL}{place}"]).text

    def _get(self, url: str) -> Result:
        return self.node.exec(["curl", "-sS", "--fail", "--max-time", "10", url], check=False)


def _state(item: dict[str, Any]) -> PodState:
    status = item.get("status") or {}
    conditions = {one["type"]: one["status"] for one in status.get("conditions") or []}
    containers = status.get("containerStatuses") or []
    return PodState(
        phase=status.get("phase", ""),
        ready=conditions.get("Ready") == "True",
        ip=status.get("podIP", ""),
        restarts={one["name"]: int(one.get("restartCount", 0)) for one in containers},
        containers={one["name"]: one.get("containerID", "") for one in containers},
    )


def samples(text: str, name: str) -> Iterator[tuple[dict[str, str], float]]:
    """The samples of one metric in Prometheus' text format."""
    for match in SAMPLE.finditer(text):
        if match["name"] == name:
            yield dict(LABEL.findall(match["labels"] or "")), float(match["value"])


def _by_label(text: str, name: str, label: str) -> dict[str, int]:
    return {labels[label]: int(value) for labels, value in samples(text, name)}
