# SPDX-License-Identifier: Apache-2.0
"""Sees to it that CRIU knows this kernel before a pod is frozen.

CRIU tries out what the kernel can do and keeps the answer in a file on a tmpfs. The first CRIU
after a boot does so in its dump or restore, by a dozen processes: 40 ms, in which the pod stands
still.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
from pathlib import Path

# criu/kerndat.c of CRIU 4.2: KERNDAT_CACHE_FILE in its run directory. What another kernel or
# another CRIU has written there it does not take.
CACHE = Path("/run/criu.kdat")
MONITOR_SETTINGS = Path("/etc/podferry/runtime.conf")  # native/runtime/settings.h
DEADLINE_S = 30.0


def program() -> str | None:
    """Where CRIU is, as the monitors find it; None if it is not installed."""
    with contextlib.suppress(OSError):
        for line in MONITOR_SETTINGS.read_text("utf-8").splitlines():
            key, _, value = line.partition(" ")
            if key == "criu" and value.strip():
                return value.strip()
    return shutil.which("criu", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


async def find_out() -> None:
    """Has CRIU find out, unless it has; a failure costs time later and nothing else."""
    await asyncio.to_thread(_find_out)


def _find_out() -> None:
    found = None if CACHE.exists() else program()
    if found is None:
        return
    # Any feature will do: what it finds out of the others is kept too. close_fds=False has it
    # spawned rather than forked, which gRPC's threads do not bear.
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(
            [found, "check", "--feature", "uffd"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            check=False, close_fds=False, timeout=DEADLINE_S,
        )  # fmt: skip
