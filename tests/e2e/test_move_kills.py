# SPDX-License-Identifier: Apache-2.0
"""kill -9 of either service at every line of a move that matters: the pod runs on exactly one node.

The names are those of shim/failpoints.py; a test makes sure that none is left out.
"""

from __future__ import annotations

import re
import threading
from pathlib import Path

import pytest

import shim.migration
from shim.core.migration import SourceStep, TargetStep
from tests.e2e.one_node import check_alive, running, settled
from tests.testbed.moving import DEADLINE_S, MovingNode, eventually
from tests.workloads import start
from tests.workloads.start import REDIS

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


def test_every_failpoint_is_killed_at() -> None:
    found = set()
    for path in Path(shim.migration.__file__).parent.glob("*.py"):
        for name in re.findall(r'failpoint\(f?"([^"]+)"\)', path.read_text()):
            steps = SourceStep if name.startswith("source") else TargetStep
            found |= {name.replace("{step}", step) for step in steps} if "{" in name else {name}
    never = {"source before planned", "source after planned", "target before offered",
             "target after offered"}  # fmt: skip
    assert found - never == {*SOURCE, *TARGET, *UNDO, *LAST}


# What lies between such a line and the one behind it has few steps; RUN_SLOW=1 tests them all.
NEAR_ANOTHER = {
    "source before copying", "source after freezing", "source before gave up",
    "source before departed", "source ended the originals", "source before settled",
    "target before prepared", "target before staged", "target before resumed",
}  # fmt: skip
POINTS = [
    pytest.param(one, marks=pytest.mark.slow) if one in NEAR_ANOTHER else one
    for one in (*SOURCE, *TARGET, *LAST)
]


@pytest.mark.parametrize("name", POINTS)
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
