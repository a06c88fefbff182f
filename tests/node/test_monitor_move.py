# SPDX-License-Identifier: Apache-2.0
"""A container leaves one node and goes on running on another, carried by its two monitors."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.node.fix_monitor import eventually
from tests.node.fix_move import CLAIMED, DEPARTED, HELD, RUNNING, STAGED, Mover, Pair
from tests.node.test_monitor_failures import Client
from tests.testbed import images
from tests.testbed.pods import ContainerSpec, PodSpec

REDIS = PodSpec("redis", (ContainerSpec("main", image=images.REDIS),))
COUNT = "i=0; while :; do echo $i; i=$((i+1)); sleep 0.2; done"
COUNTER = PodSpec("counter", (ContainerSpec("main", command=("sh", "-c", COUNT)),))


def serving(node: Mover) -> tuple[str, Client]:
    """A redis on a node and a client that is connected."""
    pod = node.run_pod(REDIS)

    def answers() -> bool:
        return node.node.exec(["nc", "-z", pod.ip, "6379"], check=False).status == 0

    eventually(answers, "redis")
    client = Client(node, pod.ip)
    client.ask()
    return pod.container_id, client


@pytest.fixture
def redis(pair: Pair) -> Iterator[tuple[str, Client]]:
    """A redis on A and its client."""
    container, client = serving(pair.a)
    yield container, client
    client.socket.close()


def test_a_redis_moves_and_its_client_stays_connected(
    pair: Pair, redis: tuple[str, Client]
) -> None:
    a, b = pair.a, pair.b
    source, client = redis
    address = a.pod_of(source).ip
    claim = pair.claim(REDIS)
    target = claim.container_id
    pair.bring_address(address, target)

    held = a.must(HELD, "hold", source)
    place = pair.carry(source, target)
    b.must(CLAIMED, "arm", target, place)
    staged = b.must(STAGED, "stage", target)
    gone = b.must(RUNNING, "go", target)
    left = a.must(DEPARTED, "depart", source)
    print({"held": held["took_ms"], "staged": staged["took_ms"], "go": gone["took_ms"],
           "depart": left["took_ms"]})  # fmt: skip
    pair.reroute(address, claim.pod.ip)

    client.ask()  # the count goes on, on the same connection
    claim.started()
    assert b.is_running(target)
    assert b.must(RUNNING, "go", target)["wakes"] == 1
    init = b.step("state", target)["init_pid"]
    assert init in json.loads(b.oci("ps", "--format", "json", target).text)
    assert json.loads(b.oci("state", target).text)["pid"] == init
    said = b.exec(claim.pod, ["redis-cli", "get", "n"])
    assert said.stdout.strip() == b"%d" % client.count
    assert b.cri.container_stats(target).memory.working_set_bytes.value > 0

    assert a.is_running(source)
    a.step("exit", source)
    assert a.ended(source).exit_code == 0
    client.ask()
    b.cri.stop_container(target, 20)
    assert b.status(target).exit_code == 0
