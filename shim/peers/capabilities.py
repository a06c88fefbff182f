# SPDX-License-Identifier: Apache-2.0
"""Asks this node what it can do for a pod that comes."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
from pathlib import Path

import grpc
import psutil

from cri_proto import peer_pb2 as peer
from shim.checkpoint import features
from shim.core.fitness import Capabilities
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
        criu_version=await asyncio.to_thread(_criu_version),
        cpu_flags=await asyncio.to_thread(_cpu_flags),
        free_memory_bytes=psutil.virtual_memory().available,
        has_monitors=await _has_monitors(channel),
    )


def _criu_version() -> str:
    program = features.program()
    if program is None:
        return ""
    # close_fds=False has it spawned rather than forked: gRPC's threads do not bear a fork.
    done = subprocess.run(
        [program, "--version"], capture_output=True, check=False, close_fds=False, timeout=10
    )
    found = re.search(rb"Version: ([0-9][0-9.]*)", done.stdout)
    return found[1].decode() if found else ""


def _cpu_flags() -> frozenset[str]:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


async def _has_monitors(channel: grpc.aio.Channel) -> bool:
    return Path(await containerd.default_handler(channel)).name == MONITOR


def as_message(one: Capabilities) -> peer.HelloResponse:
    """As the peer service tells it."""
    return peer.HelloResponse(
        node=one.node,
        version=one.version,
        kernel=one.kernel,
        machine=one.machine,
        criu_version=one.criu_version,
        cpu_flags=sorted(one.cpu_flags),
        free_memory_bytes=one.free_memory_bytes,
        has_monitors=one.has_monitors,
    )


def from_message(told: peer.HelloResponse) -> Capabilities:
    """As another node tells it of itself."""
    return Capabilities(
        node=told.node,
        version=told.version,
        kernel=told.kernel,
        machine=told.machine,
        criu_version=told.criu_version,
        cpu_flags=frozenset(told.cpu_flags),
        free_memory_bytes=told.free_memory_bytes,
        has_monitors=told.has_monitors,
    )
