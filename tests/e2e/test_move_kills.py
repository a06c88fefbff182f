# SPDX-License-Identifier: Apache-2.0
"""kill -9 of either service at every line of a move that matters: the pod runs on exactly one node.

The names are those of shim/failpoints.py; a test makes sure that none is left out.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import shim.migration
from shim.core.migration import SourceStep, TargetStep
from tests.testbed.moving import MovingNode, eventually
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
# Open: a target that is killed does not take down the replacement that it had made before the
# journal told of it: the next move there is refused, the sandbox's name is taken. And killed around
# "staged" a redis that answers to the scheduler was seen on both nodes, not yet explained.
TARGET_IS_LEFT = pytest.mark.xfail(
    reason="a killed target leaves what it made; staged processes may be seen to run", run=False
)


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
    """Whether a redis of the node answers to the scheduler: not one that is held or staged."""
    for pid in node.processes("redis-server"):
        state = node.node.read(f"/proc/{pid}/stat").decode().rpartition(")")[2].split()[0]
        frozen = node.node.read(f"/proc/{pid}/wchan").decode()
        if state in "SR" and "refrigerator" not in frozen and "ptrace" not in frozen:
            return True
    return False


def settled(first: MovingNode, second: MovingNode) -> bool:
    """Whether every move is over on both nodes and one redis runs."""
    ended = {"settled", "abandoned", "resumed", "dropped"}
    moves = [*first.migrations(), *second.migrations()]
    pods = len(first.processes("redis-server")) + len(second.processes("redis-server"))
    return all(one["step"] in ended for one in moves) and pods == 1


@pytest.mark.parametrize(
    "name", [*SOURCE, *(pytest.param(one, marks=TARGET_IS_LEFT) for one in TARGET), *LAST]
)
def test_the_pod_runs_on_one_node_after_a_kill(
    pair: tuple[MovingNode, MovingNode], name: str
) -> None:
    first, second = pair
    victim = first if name.startswith("source") else second
    victim.restart({"PODFERRY_FAILPOINT": f"kill:{name}"})
    redis = start.start(first.kubelet, REDIS)
    with redis.client() as client:
        client.ask(5)
        first.command("migrate", redis.pod.sandbox_id, "--to", second.name, check=False)
        eventually(lambda: not victim.shim.daemon.is_running(), victim)
        assert not (running(first) and running(second))
        victim.restart({})
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
