# SPDX-License-Identifier: Apache-2.0
"""``python -m tests.bench.migrate``: what a move costs between two real nodes, judged by the bars.

A third node is the client. CRIU alone moves the same redis in the same run, stop-and-copy and by
its lazy-pages daemon. QUICK=1 takes fewer moves and less memory and gives the same keys. The last
line on stdout is one JSON object.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from typing import Any

from tests.bench.figures import machine, spread
from tests.bench.migrate import datagrams, transfer
from tests.bench.migrate.loading import Loading
from tests.bench.migrate.plain import ADDRESS, PORT, Plain, Way
from tests.bench.migrate.series import IDLE_CONNECTIONS, Series
from tests.bench.wake.sleeper import FILL, VALUE_BYTES
from tests.testbed import testbed
from tests.testbed.errors import NodeFailed
from tests.testbed.moving import MovingNode, moving
from tests.testbed.node import Node

QUICK = bool(os.environ.get("QUICK"))
MOVES = 4 if QUICK else 24
LARGE_MOVES = 2 if QUICK else 20
PEER_MOVES = 1 if QUICK else 5
DATAGRAM_MOVES = 2 if QUICK else 10
SMALL_MIB, LARGE_MIB = 25, 256 if QUICK else 1024

# Bar and whether the figure must not be above (or else not below) it.
BARS = {
    "stall_p50_ms": (120, True),
    "stall_p99_ms": (300, True),
    "stall_p50_ms_1gib": (250, True),
    "stall_p99_ms_1gib": (500, True),
    "stop_and_copy_ratio": (6, False),
    "stall_minus_freeze_ms": (20, True),
    "resets": (0, True),
    "dropped_packets": (0, True),
    "lost_udp_datagrams": (0, True),
    "wrong_answers": (0, True),
    "tcp_timeouts": (0, True),
    "fresh_over_stall_p99_ms": (50, True),
    "transfer_ratio": (0.7, False),
    "throughput_while_copying": (0.8, False),
    "resident_s_1gib": (3, True),
}


def main() -> int:
    """Runs everything; exit status 1 if a bar is missed."""
    figures: dict[str, Any] = {"machine": machine(), "quick": QUICK}
    with testbed.nodes(3) as nodes:
        measure(nodes, figures)
    judge(figures)
    print(json.dumps(figures))
    return 1 if figures["missed"] else 0


def measure(nodes: list[Node], figures: dict[str, Any]) -> None:
    """All measurements: ours, then CRIU's alone, on the same nodes."""
    first, second, client = nodes
    with moving([first, second]) as pair:
        for name, mebibytes, count in (
            ("small", SMALL_MIB, MOVES),
            ("large", LARGE_MIB, LARGE_MOVES),
        ):
            say(f"redis of {mebibytes} MiB, {count} moves")
            figures[name] = ours(pair, client, mebibytes, count)
        say(f"datagrams, {DATAGRAM_MOVES} moves")
        figures["datagrams"] = datagrams.measure(pair, client, DATAGRAM_MOVES)
        say("the page stream beside iperf3")
        figures["transfer"] = transfer.measure(first, second)
    for name, mebibytes in (("small", SMALL_MIB), ("large", LARGE_MIB)):
        for way in ("stop-and-copy", "lazy-pages"):
            say(f"CRIU alone, {way}, redis of {mebibytes} MiB, {PEER_MOVES} moves")
            figures[f"criu_{way}_{name}"] = peers(nodes, way, mebibytes)


def ours(pair: list[MovingNode], client: Node, mebibytes: int, count: int) -> dict[str, Any]:
    """A series of moves."""
    series = Series(pair, client, mebibytes)
    try:
        return series.run(count).figures()
    finally:
        for one in pair:
            one.remove_all()


def peers(nodes: list[Node], way: Way, mebibytes: int) -> dict[str, Any]:
    """The same by CRIU alone."""
    first, second, client = nodes
    plain = Plain(first, second, client)
    stalls = []
    try:
        plain.start(max(0, (mebibytes << 20) - (8 << 20)) // VALUE_BYTES, FILL)
        with Loading(client, ADDRESS, PORT, IDLE_CONNECTIONS) as load:
            for _ in range(PEER_MOVES):
                load.begin()
                plain.move(way)
                felt = load.end()
                stalls.append(felt["longest_ms"])
    except (
        NodeFailed,
        subprocess.SubprocessError,
    ) as error:  # CRIU's own way may fail where ours does not
        say(f"CRIU alone failed: {error}")
        if not stalls:
            return {"failed": str(error)[-500:]}
    finally:
        plain.stop()
    return {"stall_p50_ms": round(statistics.median(stalls), 1), "stall_ms": spread(stalls)}


def judge(figures: dict[str, Any]) -> None:
    """Lifts the issue's keys to the top and says which bars are missed."""
    small, large = figures["small"], figures["large"]
    for key in ("stall_p50_ms", "stall_p99_ms"):
        figures[key], figures[f"{key}_1gib"] = small[key], large[key]
    plain = figures["criu_stop-and-copy_large"].get("stall_p50_ms", 0.0)
    figures["stop_and_copy_ratio"] = round(plain / large["stall_p50_ms"], 2)
    for key in ("resets", "dropped_packets", "wrong_answers", "tcp_timeouts"):
        figures[key] = small[key] + large[key]
    for key in ("stall_minus_freeze_ms", "fresh_over_stall_p99_ms"):
        figures[key] = max(small[key], large[key])
    figures["throughput_while_copying"] = large["throughput_while_copying"]
    figures["resident_s_1gib"] = large["resident_s"]
    figures["lost_udp_datagrams"] = figures["datagrams"]["lost"]
    figures["transfer_ratio"] = figures["transfer"]["transfer_ratio"]
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
