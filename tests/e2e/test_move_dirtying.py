# SPDX-License-Identifier: Apache-2.0
"""A pod that writes memory faster than the link takes it is slowed, moves, and is right."""

from __future__ import annotations

import threading

import pytest

from tests.testbed import images
from tests.testbed.moving import MovingNode, eventually
from tests.testbed.node import Node
from tests.workloads import start
from tests.workloads.start import VOLUME, Running, Workload

Pair = tuple[MovingNode, MovingNode]
MIB = 512
DIRTY = Workload("dirty", "", 0, images.BUSYBOX, ("/program/dirty", str(MIB)), "dirty.c")
GENERATIONS = 3


def seen(running: Running, node: MovingNode) -> int:
    """The last whole generation that the program tells on a node; 0 before the first."""
    path = node.node.path(f"{running.pod.spec.volume(VOLUME)}/seen")
    return int(path.read_text() or 0) if path.exists() else 0


def wrong(running: Running, node: MovingNode) -> bool:
    """Whether it has found a page with another generation."""
    return node.node.path(f"{running.pod.spec.volume(VOLUME)}/wrong").exists()


def quotas(node: Node) -> list[str]:
    """The CPU quotas of the node's containers, as the kernel has them."""
    names = r"\( -name cpu.cfs_quota_us -o -name cpu.max \)"
    script = f"find /sys/fs/cgroup -path '*kubepods*pod*/*' {names} | xargs -r cat"
    found = node.exec(["sh", "-c", script], check=False)  # a cgroup may go meanwhile
    return found.text.split()


@pytest.fixture
def running(pair: Pair) -> Running:
    first, _ = pair
    made = start.start(first.kubelet, DIRTY)
    eventually(lambda: seen(made, first) >= GENERATIONS, first)
    return made


def test_it_is_slowed_and_moves(pair: Pair, running: Running) -> None:
    first, second = pair
    result = first.migrate(running.pod, second)
    print(result)
    assert result["throttled"]
    eventually(lambda: seen(running, second) > 0, second)
    before = seen(running, second)
    eventually(lambda: seen(running, second) > before + GENERATIONS, second)
    assert not wrong(running, second)
    assert set(quotas(second.node)) <= {"-1", "max", "100000"}


@pytest.mark.parametrize("how", ["abort", "kill -9"])
def test_it_gets_back_what_it_had(pair: Pair, running: Running, how: str) -> None:
    first, second = pair
    words = ("migrate", running.pod.sandbox_id, "--to", second.name)
    command = threading.Thread(target=first.command, args=words, kwargs={"check": False})
    command.start()
    eventually(lambda: any(one not in ("-1", "max", "100000") for one in quotas(first.node)), first)
    if how == "abort":
        first.command("abort", first.migrations()[-1]["move"])
    else:
        first.shim.daemon.stop("KILL")
        first.restart({})
    command.join()
    eventually(lambda: set(quotas(first.node)) <= {"-1", "max", "100000"}, first)
    before = seen(running, first)
    eventually(lambda: seen(running, first) > before + GENERATIONS, first)
    assert not wrong(running, first)
