# SPDX-License-Identifier: Apache-2.0
"""``python -m tests.bench.wake.pager``: how fast the pager fills a process that CRIU restored.

The process is idle, so all pages come by the fill. Beside it, in the same run and with the same
bytes: plain UFFDIO_COPY in batches of 4 MiB (native/pager/tests/uffd_copy.c), and CRIU's own
`criu lazy-pages`. The last line on stdout is one JSON object; QUICK=1 takes less memory and fewer
rounds.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from typing import Any

from tests.bench.figures import machine, spread
from tests.node import pager_parts
from tests.node.pager_parts import Sleeper
from tests.testbed import testbed
from tests.testbed.node import Node

QUICK = bool(os.environ.get("QUICK"))
MEBIBYTES = 256 if QUICK else 1024
ROUNDS = 4 if QUICK else 8
CRIU_ROUNDS = 1 if QUICK else 3
CRIU_DEADLINE_S = 300.0
PAGE_BYTES = 4096
BAR_RATIO = 0.5


def measure(node: Node, mebibytes: int = MEBIBYTES, rounds: int = ROUNDS) -> dict[str, Any]:
    """The two rates, their ratio, and the samples they are medians of."""
    fills: list[float] = []
    copies: list[float] = []
    peers: list[float] = []
    copy_tool = "/run/uffd_copy"
    node.write(copy_tool, (pager_parts.build() / "tests" / "uffd_copy").read_bytes(), 0o755)
    with Sleeper(node, mebibytes, "pager-bench", dense=True) as sleeper:
        for _ in range(rounds):
            sleeper.dump()
            store = f"{sleeper.images}/pages-1.img"
            # Memory that nobody has touched for two seconds is slow on a virtual machine: the
            # first copy is for warmth, and every one leaves its memory to the next.
            plain_copy(node, copy_tool, store)
            copies.append(plain_copy(node, copy_tool, store))
            fills.append(fill(sleeper))
            sleeper.forget_round()
        for _ in range(CRIU_ROUNDS):
            sleeper.dump()
            peers.append(criu_fill(node, sleeper))
            sleeper.forget_round()
    node.path(copy_tool).unlink()
    return {
        "pager_fill_gb_per_s": round(statistics.median(fills), 3),
        "uffd_copy_gb_per_s": round(statistics.median(copies), 3),
        "pager_fill_ratio": round(statistics.median(fills) / statistics.median(copies), 3),
        "criu_lazy_pages_gb_per_s": round(statistics.median(peers), 3),
        "pager_mebibytes": mebibytes,
        "pager_fill_spread": spread(fills),
        "uffd_copy_spread": spread(copies),
        "pager_fill_samples": fills,
        "uffd_copy_samples": copies,
        "criu_lazy_pages_samples": peers,
    }


def plain_copy(node: Node, tool: str, store: str) -> float:
    """GB/s of plain UFFDIO_COPY of the store."""
    copied_bytes, took_ns = node.exec([tool, store]).text.split()
    return int(copied_bytes) / int(took_ns)


def fill(sleeper: Sleeper) -> float:
    """Wakes the process; GB/s from the end of its restore until everything was in."""
    pager = sleeper.start_pager()
    sleeper.restore()
    assert sleeper.finish(pager) == 0, pager.log
    figures = pager.figures()
    return figures["pages"] * PAGE_BYTES / figures["fill_us"] / 1000


def criu_fill(node: Node, sleeper: Sleeper) -> float:
    """The same with CRIU's own daemon, from the end of the restore to the daemon's end."""
    store_bytes = node.path(f"{sleeper.images}/pages-1.img").stat().st_size
    daemon = node.daemon("lazy-pages", ["criu", "lazy-pages", "-D", sleeper.images])
    daemon.start()
    try:
        listening = node.path(f"{sleeper.images}/lazy-pages.socket")
        deadline = time.monotonic() + CRIU_DEADLINE_S
        while not listening.exists():
            assert time.monotonic() < deadline, daemon.log_tail()
            time.sleep(pager_parts.POLL_S)
        sleeper.restore()
        begun = time.monotonic()
        daemon.wait_ended(CRIU_DEADLINE_S)
        return store_bytes / (time.monotonic() - begun) / 1e9
    finally:
        daemon.stop("KILL")


def main() -> int:
    """Measures on a node of its own; exit status 1 if the bar is missed."""
    figures: dict[str, Any] = {"machine": machine(), "quick": QUICK}
    with testbed.nodes(1) as [node]:
        figures |= measure(node)
    figures["missed"] = ["pager_fill_ratio"] if figures["pager_fill_ratio"] < BAR_RATIO else []
    print(json.dumps(figures))
    return 1 if figures["missed"] else 0


if __name__ == "__main__":
    sys.exit(main())
