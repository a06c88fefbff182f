# SPDX-License-Identifier: Apache-2.0
"""Processor time and resident memory of a process on a node, read from the node's /proc."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
UTIME, STIME, RSS = 11, 12, 21
"""Places in /proc/PID/stat after the command's closing bracket, counted from 0 (proc(5))."""


@dataclass(frozen=True)
class NodeProcess:
    """A process.

    Attributes:
        directory: its /proc/PID, as this process can read it.
    """

    directory: Path

    def cpu_s(self) -> float:
        """User and system time since its start, in seconds; grain 10 ms."""
        fields = self._fields()
        return (int(fields[UTIME]) + int(fields[STIME])) / TICKS_PER_S

    def rss_bytes(self) -> int:
        """Resident memory now."""
        return int(self._fields()[RSS]) * PAGE_BYTES

    def _fields(self) -> list[str]:
        return (self.directory / "stat").read_text().rpartition(")")[2].split()
