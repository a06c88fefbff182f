# SPDX-License-Identifier: Apache-2.0
"""Moves a redis of some size to and fro under load, and collects what its users felt."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field
from typing import Any

from tests.bench.figures import percentile, spread
from tests.bench.migrate.loading import Loading
from tests.bench.wake.sleeper import FILL, VALUE_BYTES
from tests.testbed.kubelet import Pod
from tests.testbed.moving import MovingNode
from tests.testbed.node import Node
from tests.workloads import start
from tests.workloads.start import REDIS

QUIET_S = 0.5
PARTS = (
    "held_ms", "frozen_ms", "quiesce_ms", "dump_ms", "send_ms", "stage_ms", "give_up_ms",
    "commit_ms", "flip_ms", "wait_ms", "seal_ms", "restore_ms", "resume_ms",
)  # fmt: skip
SETTLE_DEADLINE_S = 60.0
IDLE_CONNECTIONS = 200


@dataclass
class Moves:
    """What a series of moves gave."""

    stall_ms: list[float] = field(default_factory=list)
    frozen_ms: list[float] = field(default_factory=list)
    fresh_over_ms: list[float] = field(default_factory=list)
    throughput: list[float] = field(default_factory=list)
    resident_s: list[float] = field(default_factory=list)
    results: list[dict[str, Any]] = field(default_factory=list)
    timeouts_of_short: int = 0
    felt: dict[str, Any] = field(default_factory=dict)
    dropped: int = 0

    def figures(self) -> dict[str, Any]:
        """As they are printed."""
        over = [stall - frozen for stall, frozen in zip(self.stall_ms, self.frozen_ms, strict=True)]
        return {
            "stall_p50_ms": round(statistics.median(self.stall_ms), 2),
            "stall_p99_ms": round(percentile(self.stall_ms, 0.99), 2),
            "stall_ms": spread(self.stall_ms),
            "frozen_p50_ms": round(statistics.median(self.frozen_ms), 2),
            "stall_minus_freeze_ms": round(statistics.median(over), 2),
            "fresh_over_stall_p99_ms": round(percentile(self.fresh_over_ms, 0.99), 2),
            "throughput_while_copying": round(statistics.median(self.throughput), 3),
            "resident_s": round(statistics.median(self.resident_s), 3) if self.resident_s else 0.0,
            "tcp_timeouts": self.timeouts_of_short,
            "resets": self.felt.get("resets", 0),
            "wrong_answers": self.felt.get("wrong", 0),
            "errors": self.felt.get("errors", []),
            "dropped_packets": self.dropped,
            "moves": len(self.stall_ms),
            "parts_p50_ms": {
                part: round(statistics.median(one[part] for one in self.results), 2)
                for part in PARTS
            },
            "rounds": [one["rounds"] for one in self.results],
            "last_bytes": [one["last_bytes"] for one in self.results],
            "raw_stall_ms": [round(one, 2) for one in self.stall_ms],
        }


class Series:
    """A redis that moves between two nodes, used from a third.

    Args:
        pair: the two nodes.
        client: the third.
        mebibytes: what the redis holds.
    """

    def __init__(self, pair: list[MovingNode], client: Node, mebibytes: int) -> None:
        self.here, self.there = pair
        self.client = client
        running = start.start(self.here.kubelet, REDIS)
        self.pod: Pod = running.pod
        self.sandbox_id = self.pod.sandbox_id
        count = max(0, (mebibytes << 20) - (8 << 20)) // VALUE_BYTES
        for _ in range(100):
            done = self.here.kubelet.exec(self.pod, ["redis-cli", "ping"])
            if done.exit_code == 0:
                break
            time.sleep(0.05)
        argv = ["redis-cli", "EVAL", FILL, "0", str(count)]
        self.here.kubelet.exec(self.pod, argv, timeout_s=300)

    def run(self, count: int) -> Moves:
        """So many moves to and fro."""
        into = Moves()
        with Loading(self.client, self.pod.ip, REDIS.port, IDLE_CONNECTIONS) as load:
            for _ in range(count):
                self._move(load, into)
            into.felt = load.check()
        return into

    def _move(self, load: Loading, into: Moves) -> None:
        load.begin()
        time.sleep(QUIET_S)
        before = load.end()["per_s"]
        load.begin()
        began = time.monotonic()
        result = self.here.migrate_sandbox(self.sandbox_id, self.there)
        took_s = time.monotonic() - began
        felt = load.end()
        stall_ms = felt["longest_ms"]
        into.results.append(result)
        into.stall_ms.append(stall_ms)
        into.frozen_ms.append(result["frozen_ms"])
        into.fresh_over_ms += [max(0.0, one - stall_ms) for one in felt["fresh_ms"]]
        # What the busy connection got while the pod ran, beside what it got before.
        ran_s = max(0.05, took_s - stall_ms / 1e3)
        into.throughput.append(felt["asked"] / ran_s / before)
        if stall_ms < 200:
            into.timeouts_of_short += felt["tcp_timeouts"]
        into.dropped += result.get("dropped_packets", 0)
        into.resident_s.append(self._resident())
        self._remove_old()
        self.here, self.there = self.there, self.here

    def _resident(self) -> float:
        """Seconds from here until the target's pager has ended: all memory is in."""
        began = time.monotonic()
        while self.there.processes("podferry-pager"):
            if time.monotonic() - began > SETTLE_DEADLINE_S:
                raise TimeoutError("the pager does not end")
            time.sleep(0.01)
        return time.monotonic() - began

    def _remove_old(self) -> None:
        """Deletes the pod that has left, as kubelet does, and finds the one that has come."""
        self.here.remove_sandbox(self.sandbox_id)
        until = time.monotonic() + SETTLE_DEADLINE_S
        while not (found := self.there.sandbox_of(self.pod.spec.uid)):
            if time.monotonic() > until:
                raise TimeoutError("the moved pod is not there")
            time.sleep(0.05)
        self.sandbox_id = found
