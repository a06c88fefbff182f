# SPDX-License-Identifier: Apache-2.0
"""A container leaves one node and goes on running on another, carried by its two monitors."""

from __future__ import annotations

import json

from tests.node.fix_monitor import eventually
from tests.node.fix_move import CLAIMED, COUNT, DEPARTED, HELD, RUNNING, STAGED, Mover, Pair
from tests.node.redis_client import Client
from tests.testbed.pods import ContainerSpec, PodSpec


def test_a_redis_moves_and_its_client_stays_connected(
    pair: Pair, served: tuple[str, Client]
) -> None:
    a, b = pair.a, pair.b
    source, client = served
    address = a.pod_of(source).ip
    claim = pair.claim(a.pod_of(source).spec)
    target = claim.container_id
    pair.bring_address(address, target)

    held = a.must(HELD, "hold", source)
    place = pair.carry(source, target)
    b.must(CLAIMED, "arm", target, place)
    staged = b.must(STAGED, "stage", target)
    assert b.oci("state", target).status == 0
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


def test_the_containers_of_a_pod_move_together(pair: Pair) -> None:
    spec = PodSpec("two", tuple(
        ContainerSpec(name, command=("sh", "-c", COUNT)) for name in ("one", "other")
    ))  # fmt: skip
    a, b = pair.a, pair.b
    sources = a.run_pod(spec).containers
    for name in sources:
        eventually(lambda name=name: counted(pair.a, spec, name), f"lines of {name}")
    claim = pair.claim(spec)
    for name, source in sources.items():
        a.must(HELD, "hold", source)
        b.must(CLAIMED, "arm", claim.containers[name], pair.carry(source, claim.containers[name]))
    for verb, state in (("stage", STAGED), ("go", RUNNING)):
        for target in claim.containers.values():
            b.must(state, verb, target)
    claim.started()
    for name, source in sources.items():
        a.must(DEPARTED, "depart", source)
        a.step("exit", source)
        assert a.ended(source).exit_code == 0
        last = counted(a, spec, name)[-1]
        eventually(lambda name=name: len(counted(b, spec, name)) > 2, f"lines of {name} on B")
        # It goes on where it was, in the log of the node that it has come to.
        first, *rest = counted(b, spec, name)
        assert first == last + 1
        assert rest == list(range(first + 1, first + 1 + len(rest)))


def counted(node: Mover, spec: PodSpec, name: str) -> list[int]:
    """What a counter has said on a node."""
    pod = next(one for one in node.pods if one.spec == spec)
    return [int(line.split(" ", 3)[3]) for line in node.log(pod, name).splitlines()]
