# SPDX-License-Identifier: Apache-2.0
"""``python -m tests.bench.migrate.track``: what the tracker costs, and what it costs its target.

One process with a block of memory, of which 0, 1, 10 and 100 % are written between two rounds.
Beside it: reading the whole pagemap, as it was done before PAGEMAP_SCAN, and rounds that compare
hashes. The last line on stdout is one JSON object; QUICK=1 takes less memory and fewer samples.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path
from subprocess import Popen
from typing import Any

from shim._native_track import PAGE_BYTES, Mode, ProcessTracker
from tests.bench.figures import machine, spread
from tests.native.track_parts import WORKLOADS, compile_c, go_on, mappings, running, stop, tell

QUICK = bool(os.environ.get("QUICK"))
MEBIBYTES = 256 if QUICK else 1024
SAMPLES = 5 if QUICK else 15
# Every how manieth page is written, by what is said of it.
STEPS = {"0": 0, "1": 100, "10": 10, "100": 1}


def order(process: Popen[str], line: str) -> int:
    """What the program answers."""
    return int(tell(process, line), 16)


def rounds(process: Popen[str], tracker: ProcessTracker) -> dict[str, Any]:
    """Milliseconds of rounds, running and stopped, and what writing costs meanwhile."""
    pages = (MEBIBYTES << 20) // PAGE_BYTES
    out: dict[str, Any] = {}
    for name, step in STEPS.items():
        running_ms, stopped_ms, write_us = [], [], []
        for _ in range(SAMPLES):
            tracker.round()
            if step:
                write_us.append(order(process, f"every {step}") / (pages / step) / 1e3)
            stop(process.pid)
            stopped_ms.append(tracker.final().statistics.scan_s * 1e3)
            go_on(process.pid)
            running_ms.append(tracker.round().statistics.scan_s * 1e3)
        out[f"round_ms_{name}_percent"] = spread(running_ms)
        out[f"final_ms_{name}_percent"] = spread(stopped_ms)
        if step == 1:
            out["first_write_us_per_page"] = spread(write_us)
    out["later_write_us_per_page"] = spread(
        [order(process, "every 1") / pages / 1e3 for _ in range(SAMPLES)]
    )
    return out


def classic_ms(pid: int) -> dict[str, float]:
    """Milliseconds that reading the pagemap of all private anonymous memory takes."""
    samples = []
    with Path(f"/proc/{pid}/pagemap").open("rb", buffering=0) as pagemap:
        for _ in range(SAMPLES):
            begun = time.monotonic()
            for one in mappings(pid):
                if one.is_ours:
                    pagemap.seek(one.start // PAGE_BYTES * 8)
                    left = (one.end - one.start) // PAGE_BYTES * 8
                    while left > 0 and (got := pagemap.read(min(left, 1 << 20))):
                        left -= len(got)
            samples.append((time.monotonic() - begun) * 1e3)
    return spread(samples)


def hashed(pid: int) -> dict[str, float]:
    """Milliseconds of rounds that read and hash every page."""
    with ProcessTracker(pid, Mode.HASH) as tracker:
        tracker.round()
        return spread(
            [tracker.round().statistics.scan_s * 1e3 for _ in range(max(3, SAMPLES // 3))]
        )


def measure(process: Popen[str]) -> dict[str, Any]:
    """Everything, of one process."""
    pages = (MEBIBYTES << 20) // PAGE_BYTES
    order(process, f"large {MEBIBYTES}")
    bare = [order(process, "every 1") / pages / 1e3 for _ in range(SAMPLES)]
    stops = []
    for _ in range(SAMPLES):
        with ProcessTracker(process.pid, Mode.WP_ASYNC) as tracker:
            stops.append(tracker.stopped_s * 1e3)
    with ProcessTracker(process.pid, Mode.WP_ASYNC) as tracker:
        first = tracker.round().statistics.scan_s * 1e3
        found = rounds(process, tracker)
    return {
        "stopped_ms": spread(stops),
        "first_round_ms": first,
        **found,
        "untracked_write_us_per_page": spread(bare),
        "classic_pagemap_ms": classic_ms(process.pid),
        "hash_round_ms": hashed(process.pid),
    }


def main() -> None:
    """Measures and prints."""
    with tempfile.TemporaryDirectory() as directory:
        program = compile_c(WORKLOADS / "obey.c", Path(directory) / "obey")
        with running(program) as process:
            samples = measure(process)
    result: dict[str, Any] = {
        f"{name}_p50": round(value["median"] if isinstance(value, dict) else value, 3)
        for name, value in samples.items()
    }
    result["classic_ratio"] = round(
        samples["classic_pagemap_ms"]["median"] / samples["final_ms_0_percent"]["median"], 1
    )
    result["write_cost_us_per_page"] = round(
        samples["first_write_us_per_page"]["median"] - samples["later_write_us_per_page"]["median"],
        3,
    )
    print(json.dumps({**result, "mebibytes": MEBIBYTES, "machine": machine(), "raw": samples}))


if __name__ == "__main__":
    main()
