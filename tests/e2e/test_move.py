# SPDX-License-Identifier: Apache-2.0
"""A pod moves to another node and back; its client keeps its connection."""

from __future__ import annotations

from tests.testbed.moving import MovingNode, eventually
from tests.workloads import start
from tests.workloads.start import REDIS


def test_a_redis_moves_there_and_back(pair: tuple[MovingNode, MovingNode]) -> None:
    first, second = pair
    running = start.start(first.kubelet, REDIS)
    with running.client() as client:
        client.ask(3)
        client.start(2)
        result = first.migrate(running.pod, second)
        print(result)
        assert result["frozen_ms"] > 0
        assert first.processes("redis-server") == []
        assert len(second.processes("redis-server")) == 1
        client.stop()
        client.ask(3)
        there = second.sandbox_of(running.pod.spec.uid)
        assert there
        client.start(2)
        second.command("migrate", there, "--to", first.name)
        client.stop()
        client.ask(3)
        felt = client.finish()
        assert felt.is_well, felt
    assert len(first.processes("redis-server")) == 1
    assert second.processes("redis-server") == []
    eventually(lambda: first.sandbox_of(running.pod.spec.uid), first)
