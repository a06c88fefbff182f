# SPDX-License-Identifier: Apache-2.0
"""Asks this node what it can do for a pod that comes."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from pathlib import Path

import grpc
import psutil

from shim.core.fitness import Capabilities
from shim.errors import PodferryError
from shim.runtime import containerd

MONITOR = "podferry-runtime"


async def here(node: str, version: str, channel: grpc.aio.Channel) -> Capabilities:
    """What this node says of itself.

    Args:
        node: its name.
        version: of podferry.
        channel: to the runtime.
    """
    return Capabilities(
        node=node,
        version=version,
        kernel=os.uname().release,
        machine=os.uname().machine,
        criu_version=await _criu_version(),
        cpu_flags=await asyncio.to_thread(_cpu_flags),
        free_memory_bytes=psutil.virtual_memory().available,
        has_monitors=await _has_monitors(channel),
    )


async def _criu_version() -> str:
    program = shutil.which("criu", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if program is None:
        return ""
    process = await asyncio.create_subprocess_exec(
        program, "--version", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    said, _ = await process.communicate()
    found = re.search(rb"Version: ([0-9][0-9.]*)", said)
    return found[1].decode() if found else ""


def _cpu_flags() -> frozenset[str]:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


async def _has_monitors(channel: grpc.aio.Channel) -> bool:
    try:
        handler = await containerd.default_handler(channel)
    except PodferryError:
        return False
    return Path(handler).name == MONITOR
