# SPDX-License-Identifier: Apache-2.0
"""Waits until a pod has read the datagrams that reached its UDP sockets; CRIU does not keep them.

CRIU 4.2 dumps a UDP socket without what is queued in it. Once the gate is shut nothing more can
arrive, so a program that reads at all has empty queues within moments.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

DRAIN_DEADLINE_S = 0.05
POLL_S = 0.0005
_TABLES = ("udp", "udp6", "udplite", "udplite6")


def unread_bytes(table: str) -> int:
    """What is queued for reading in all sockets of a table of /proc/PID/net (proc_pid_net(5))."""
    queued = 0
    for line in table.splitlines()[1:]:
        queued += int(line.split()[4].partition(":")[2], 16)
    return queued


async def drain(pid: int, proc: Path = Path("/proc")) -> int:
    """Waits, but not for long; returns the bytes that stay unread.

    Args:
        pid: a process in the pod's network namespace.
        proc: where the node's processes are.
    """
    until = time.monotonic() + DRAIN_DEADLINE_S
    # A packet that was under way when the gate was shut reaches its socket within this.
    await asyncio.sleep(POLL_S)
    while True:
        left = 0
        for table in _TABLES:
            try:
                left += unread_bytes((proc / str(pid) / "net" / table).read_text())
            except FileNotFoundError:  # a kernel without it, or the pod has just ended
                continue
        if not left or time.monotonic() > until:
            return left
        await asyncio.sleep(POLL_S)
