# SPDX-License-Identifier: Apache-2.0
"""A pod moves to another node and back; its client keeps its connection."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from tests.bench.wake.sleeper import FILL, VALUE_BYTES
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


def counted(node: MovingNode) -> dict[tuple[str, ...], float]:
    """What a scrape sees of moves there: values by name and label values."""
    said = node.node.exec(["curl", "-sS", "--max-time", "10", "http://127.0.0.1:9847/metrics"]).text
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(said)
        for sample in family.samples
        if sample.name.startswith("podferry_move")
    }


def test_a_move_is_counted_on_both_sides(pair: tuple[MovingNode, MovingNode]) -> None:
    first, second = pair
    settled = ("podferry_moves_total", "settled", "source")
    resumed = ("podferry_moves_total", "resumed", "target")
    staged = ("podferry_move_phase_seconds_count", "stage", "target")
    before, before_there = counted(first), counted(second)
    running = start.start(first.kubelet, REDIS)
    with running.client() as client:
        client.start(2)
        first.migrate(running.pod, second)
        client.stop()
        assert client.finish().is_well
    after = counted(first)
    assert after[settled] == before.get(settled, 0) + 1
    frozen = ("podferry_move_frozen_seconds_sum", "settled")
    assert 0 < after[frozen] - before.get(frozen, 0) < 10
    sent = ("podferry_move_sent_bytes_total", "memory", "running")
    assert after[sent] > before.get(sent, 0)
    assert counted(second)[resumed] == before_there.get(resumed, 0) + 1
    # Once all memory is in, and the hold is gone.
    eventually(lambda: counted(second).get(staged, 0) == before_there.get(staged, 0) + 1, second)


CHAIN = (
    "local sum = '' for i = 1, tonumber(ARGV[1]) do "
    "sum = redis.sha1hex(sum .. redis.call('GET', 'fill:' .. i)) end return sum"
)


def test_memory_that_is_sent_is_not_dumped_and_is_whole(
    pair: tuple[MovingNode, MovingNode],
) -> None:
    first, second = pair
    running = start.start(first.kubelet, REDIS)
    count = str((64 << 20) // VALUE_BYTES)
    chain = ["redis-cli", "EVAL", CHAIN, "0", count]
    with running.client() as client:
        client.ask(1)
        first.kubelet.exec(running.pod, ["redis-cli", "EVAL", FILL, "0", count], timeout_s=60)
        before = first.kubelet.exec(running.pod, chain, timeout_s=60).stdout
        result = first.migrate(running.pod, second)
        assert result["left_out_pages"] > 16384  # the values alone have as many
        assert result["criu_restore_ms"] > 0
        client.ask(3)
    sandbox_id = second.sandbox_of(running.pod.spec.uid)
    (there,) = (
        one for one in second.kubelet.cri.list_containers() if one.pod_sandbox_id == sandbox_id
    )
    after = second.kubelet.cri.exec_sync(there.id, chain, 60).stdout
    assert len(before.strip()) == 40
    assert after == before
