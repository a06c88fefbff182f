# SPDX-License-Identifier: Apache-2.0
"""kill -9 of either service at every line of a move that matters: the pod runs on exactly one node.

The names are those of shim/failpoints.py; a test makes sure that none is left out.
"""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path

import pytest

import shim.migration
from shim.core.migration import SourceStep, TargetStep
from tests.testbed.moving import DEADLINE_S, MovingNode, eventually
from tests.workloads import start
from tests.workloads.asking import Client
from tests.workloads.start import REDIS, Running

SOURCE = (
    "source before copying",
    "source after copying",
    "source before freezing",
    "source after freezing",
    "source dumped",
    "source sent",
    "source staged",
    "source before gave up",
    "source after gave up",
    "source committed",
    "source before departed",
    "source after departed",
    "source ended the originals",
    "source before settled",
)
TARGET = (
    "target before prepared",
    "target after prepared",
    "target before staged",
    "target after staged",
    "target before resumed",
    "target after resumed",
    "target resumes",
    "target went",
)
# Written when a move is given up; killed there in the tests of failures.
UNDO = ("source before abandoned", "source after abandoned", "target before dropped",
        "target after dropped")  # fmt: skip
LAST = ("source after settled",)
SAMPLES = 20
SAMPLE_S = 0.05


def test_every_failpoint_is_killed_at() -> None:
    found = set()
    for path in Path(shim.migration.__file__).parent.glob("*.py"):
        for name in re.findall(r'failpoint\(f?"([^"]+)"\)', path.read_text()):
            steps = SourceStep if name.startswith("source") else TargetStep
            found |= {name.replace("{step}", step) for step in steps} if "{" in name else {name}
    never = {"source before planned", "source after planned", "target before offered",
             "target after offered"}  # fmt: skip
    assert found - never == {*SOURCE, *TARGET, *UNDO, *LAST}


def running(node: MovingNode) -> bool:
    """Whether a redis of the node is at its own code, or in a call that its own code has made.

    One that is held is frozen or traced. One that is staged sleeps in CRIU's restorer, a piece of
    memory that belongs to no file.
    """
    return any(runs(node, pid) for pid in node.processes("redis-server"))


def runs(node: MovingNode, pid: str) -> bool:
    """The same of one process."""
    for _ in range(SAMPLES):
        try:
            state = node.node.read(f"/proc/{pid}/stat").decode().rpartition(")")[2].split()[0]
            frozen = node.node.read(f"/proc/{pid}/wchan").decode()
            call = node.node.read(f"/proc/{pid}/syscall").decode().split()
            maps = node.node.read(f"/proc/{pid}/maps").decode().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            return False
        if state not in "SR" or "refrigerator" in frozen or "ptrace" in frozen:
            return False
        if len(call) > 2:  # not just "running": the last two are stack and program counter
            return any(is_program(line, int(call[-1], 16)) for line in maps)
        time.sleep(SAMPLE_S)
    return True


def is_program(line: str, counter: int) -> bool:
    """Whether a line of /proc/PID/maps is of a file, and the counter in it."""
    first, last = (int(one, 16) for one in line.split()[0].split("-"))
    return first <= counter < last and line.split(maxsplit=5)[-1].startswith("/")


def settled(first: MovingNode, second: MovingNode) -> bool:
    """Whether every move is over on both nodes and one redis runs."""
    ended = {"settled", "abandoned", "resumed", "dropped"}
    moves = [*first.migrations(), *second.migrations()]
    pods = len(first.processes("redis-server")) + len(second.processes("redis-server"))
    return all(one["step"] in ended for one in moves) and pods == 1


@pytest.mark.parametrize("name", [*SOURCE, *TARGET, *LAST])
def test_the_pod_runs_on_one_node_after_a_kill(
    pair: tuple[MovingNode, MovingNode], name: str
) -> None:
    first, second = pair
    victim = first if name.startswith("source") else second
    victim.restart({})  # takes up what is written of earlier moves, before it can be killed
    victim.restart({"PODFERRY_FAILPOINT": f"kill:{name}"})
    redis = start.start(first.kubelet, REDIS)
    with redis.client() as client:
        client.ask(5)
        words = ("migrate", redis.pod.sandbox_id, "--to", second.name)
        # A source in doubt waits for its target, and the command for both.
        command = threading.Thread(target=first.command, args=words, kwargs={"check": False})
        command.start()
        eventually(lambda: not victim.shim.daemon.is_running(), victim)
        assert not (running(first) and running(second))
        victim.restart({})
        command.join(DEADLINE_S)
        eventually(lambda: settled(first, second), first, second)
        check_alive(client, redis, first, second)


def check_alive(client: Client, redis: Running, first: MovingNode, second: MovingNode) -> None:
    """The client goes on over its connection, and a second move works."""
    client.ask(5)
    here, there = (first, second) if first.processes("redis-server") else (second, first)
    eventually(lambda: here.sandbox_of(redis.pod.spec.uid), here)
    here.command("migrate", here.sandbox_of(redis.pod.spec.uid), "--to", there.name)
    client.ask(5)
    felt = client.finish()
    assert felt.is_well, felt
