# SPDX-License-Identifier: Apache-2.0
"""What the shim takes of processor and memory at kubelet's own cadence."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from tests.bench.process import NodeProcess
from tests.testbed.cadence import Cadence


def at_cadence(socket: Path, process: NodeProcess, seconds: float) -> dict[str, Any]:
    """Serves kubelet's background calls for a while.

    Args:
        socket: our socket, as this process can dial it.
        process: ours.
        seconds: for how long.
    """
    with Cadence(socket) as cadence:
        time.sleep(2)  # all loops make their calls at once when they start
        before_s = process.cpu_s()
        began = time.monotonic()
        time.sleep(seconds)
        took_s = time.monotonic() - began
        cpu_s = process.cpu_s() - before_s
        rss = process.rss_bytes()
    figures = cadence.figures()
    return {
        "idle_cpu_percent": round(100 * cpu_s / took_s, 2),
        "rss_mib_idle": round(rss / 2**20, 1),
        "calls": dict(figures.calls),
        "errors": {f"{m} {code}": n for (m, code), n in figures.errors.items()},
        "seconds": round(took_s, 1),
    }
