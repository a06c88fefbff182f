# SPDX-License-Identifier: Apache-2.0
"""``python -m tests.bench.wake``: what sleep and wake cost on one real node, judged by the bars.

QUICK=1 takes fewer rounds and less memory and gives the same keys. The last line on stdout is one
JSON object.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from tests.bench.figures import machine, spread
from tests.bench.wake import costs, pager, peer
from tests.bench.wake.sleeper import Redis, Rounds
from tests.testbed import front, service, testbed
from tests.testbed.kubelet import Kubelet
from tests.testbed.node import Node
from tests.testbed.service import Shim

QUICK = bool(os.environ.get("QUICK"))
ROUNDS = 6 if QUICK else 60
LARGE_ROUNDS = 2 if QUICK else 50
PEER_ROUNDS = 3 if QUICK else 20
TRAFFIC_ROUNDS = 2 if QUICK else 20
SMALL_MIB, LARGE_MIB = 25, 1024
OCI_ROUNDS = 20 if QUICK else 100
CHECKPOINTS = 1 if QUICK else 5
PAGER_MIB, PAGER_ROUNDS = (128, 2) if QUICK else (1024, 8)
ON_DISK = '[sleep]\nimages_dir = "/var/lib/podferry/images"\n'

# Bar and whether the figure must not be above (or else not below) it.
BARS = {
    "wake_p50_ms": (40, True),
    "wake_p99_ms": (80, True),
    "wake_p50_ratio_1gib": (1.5, True),
    "wake_p99_ratio_1gib": (1.5, True),
    "runc_restore_ratio": (4, False),
    "sleep_frozen_ms": (40, True),
    "freed_fraction": (0.9, False),
    "pager_fill_ratio": (0.5, False),
    "runtime_exec_overhead_ms": (3, True),
    "monitor_rss_kib": (512, True),
    "resets": (0, True),
    "dropped_packets": (0, True),
    "wrong_answers": (0, True),
    "wake_p50_ms_100m": (80, True),
    "checkpoint_freeze_ratio": (3, False),
}


def main() -> int:
    """Runs everything; exit status 1 if a bar is missed."""
    figures: dict[str, Any] = {"machine": machine(), "quick": QUICK}
    with testbed.nodes(1) as [node]:
        service.install(node)
        front.install(node)
        measure(node, figures)
    judge(figures)
    print(json.dumps(figures))
    return 1 if figures["missed"] else 0


def measure(node: Node, figures: dict[str, Any]) -> None:
    """All measurements on one node."""
    with Shim(node), Kubelet(node, service.SOCKET) as kubelet, Kubelet(node) as direct:
        say(f"redis of {SMALL_MIB} MiB, {ROUNDS} rounds")
        redis = Redis(kubelet, SMALL_MIB)
        figures["small"] = redis.cycle(ROUNDS, Rounds()).figures()
        figures["sleep_under_traffic_ms"] = spread(redis.gaps_ms(TRAFFIC_ROUNDS))
        say("OCI calls, the monitor's memory")
        figures["oci"] = costs.oci_calls(redis, OCI_ROUNDS)
        say(f"runc's checkpoint and restore, {PEER_ROUNDS} rounds")
        figures["peer"] = peer.measure(redis, PEER_ROUNDS, SMALL_MIB)
        say("with 100 millicores")
        redis.limit_cpu()
        figures["limited"] = redis.cycle(ROUNDS, Rounds()).figures()
        redis.close()
        say(f"redis of {LARGE_MIB} MiB, {LARGE_ROUNDS} rounds")
        redis = Redis(kubelet, LARGE_MIB)
        figures["large"] = redis.cycle(LARGE_ROUNDS, Rounds()).figures()
        redis.close()
        say("checkpoints that leave the container running")
        figures["checkpoint"] = costs.checkpoint(kubelet, direct, CHECKPOINTS)
    with Shim(node, ON_DISK), Kubelet(node, service.SOCKET) as kubelet:
        say("memory that goes back to the node, images on disk")
        redis = Redis(kubelet, LARGE_MIB)
        figures["freed"] = freed(redis)
        redis.close()
    say("the pager's fill")
    figures["pager"] = pager.measure(node, PAGER_MIB, PAGER_ROUNDS)


def freed(redis: Redis) -> dict[str, Any]:
    """What of the pod's resident memory is gone while it sleeps; its monitor's counts as used."""
    before = redis.resident_bytes()
    available = _available_bytes()
    redis.sleep()
    after = redis.resident_bytes() + 1024 * costs.monitor_kib(redis)
    redis.node.exec(["sync", "-f", "/var/lib/podferry"])  # what is not written yet is not available
    gained = _available_bytes() - available
    redis.client.ask()
    redis.settle()
    return {
        "freed_fraction": round(1 - after / before, 4),
        "freed_of_bytes": before,
        # Of the whole machine, so whatever else happens on it shows here too.
        "node_available_gained_fraction": round(gained / before, 4),
    }


def _available_bytes() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


def judge(figures: dict[str, Any]) -> None:
    """Lifts the issue's keys to the top and says which bars are missed."""
    small, large, limited = figures["small"], figures["large"], figures["limited"]
    for key in ("wake_p50_ms", "wake_p99_ms", "sleep_frozen_ms"):
        figures[key] = small[key]
        figures[f"{key}_1gib"] = large[key]
    for key in ("wake_p50_ms", "wake_p99_ms"):
        ratio = round(large[key] / small[key], 2)
        figures[f"{key.removesuffix('_ms')}_ratio_1gib"] = ratio
    figures["wake_p50_ms_100m"] = limited["wake_p50_ms"]
    for key in ("resets", "dropped_packets", "wrong_answers"):
        figures[key] = small[key] + large[key] + limited[key]
    ratio = figures["peer"]["runc_wake_p50_ms"] / small["wake_p50_ms"]
    figures["runc_restore_ratio"] = round(ratio, 2)
    for part in ("oci", "checkpoint", "freed", "pager"):
        figures |= {k: v for k, v in figures[part].items() if isinstance(v, int | float)}
    missed = []
    for key, (bar, is_upper) in BARS.items():
        value = figures[key]
        met = value <= bar if is_upper else value >= bar
        if not met:
            missed.append(key)
        sign = "<=" if is_upper else ">="
        say(f"{key:<28} {value!s:<12} bar {sign} {bar:<6} {'met' if met else 'MISSED'}")
    figures["missed"] = missed


def say(text: str) -> None:
    """Progress for people, on stderr."""
    print(f"-- {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
