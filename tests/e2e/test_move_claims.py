# SPDX-License-Identifier: Apache-2.0
"""A kubelet on the target makes the replacement: found by its template's label or by annotation."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping

import pytest

from tests.testbed import images
from tests.testbed.moving import MovingNode, eventually
from tests.testbed.pods import ContainerSpec, PodSpec
from tests.testbed.process import Result
from tests.workloads.asking import Client

LABELS = {"pod-template-hash": "abc"}
REDIS = (ContainerSpec("main", images.REDIS),)


class Migrating(threading.Thread):
    """`podferry migrate --claim`, under way."""

    def __init__(self, here: MovingNode, sandbox_id: str, there: MovingNode) -> None:
        super().__init__()
        self.here, self.words = here, ("migrate", sandbox_id, "--to", there.name, "--claim")
        self.result: Result | None = None
        self.start()

    def run(self) -> None:
        self.result = self.here.command(*self.words, "--output", "json", check=False)

    def ended(self) -> Result:
        """Its result."""
        self.join(60)
        assert self.result is not None
        return self.result


def offered(second: MovingNode) -> str:
    """The move that waits for a replacement on a node."""
    eventually(lambda: any(one["step"] == "offered" for one in second.migrations()), second)
    return str(next(one["move"] for one in second.migrations() if one["step"] == "offered"))


@pytest.mark.parametrize("by", ["label", "annotation"])
def test_a_kubelets_pod_takes_the_processes_in(
    pair: tuple[MovingNode, MovingNode], by: str
) -> None:
    first, second = pair
    labels: Mapping[str, str] = LABELS if by == "label" else {}
    pod = first.kubelet.run_pod(PodSpec("web-1", REDIS, labels=labels))
    with Client(first.node, "redis", pod.ip, 6379) as client:
        client.ask(3)
        moving = Migrating(first, pod.sandbox_id, second)
        move = offered(second)
        notes = {} if by == "label" else {"podferry.dev/migration": move}
        # Its StartContainer returns once the processes run in it.
        made = second.kubelet.run_pod(PodSpec("web-2", REDIS, labels=labels, annotations=notes))
        result = moving.ended()
        assert result.status == 0, result.stderr.decode()
        assert json.loads(result.text)["move"] == move
        client.ask(3)
        assert client.finish().is_well
    assert second.sandbox_of(made.spec.uid) == made.sandbox_id
    # The next pod of the template is a cold one: an offer is granted once.
    other = second.kubelet.run_pod(PodSpec("web-3", REDIS, labels=labels))
    assert len(second.processes("redis-server")) == 2
    second.kubelet.delete_pod(other, grace_s=0)


def test_another_pod_is_not_taken_for_the_replacement(
    pair: tuple[MovingNode, MovingNode],
) -> None:
    first, second = pair
    pod = first.kubelet.run_pod(PodSpec("web-1", REDIS, labels=LABELS))
    moving = Migrating(first, pod.sandbox_id, second)
    move = offered(second)
    second.kubelet.run_pod(PodSpec("web-2", REDIS, labels={"pod-template-hash": "xyz"}))
    assert moving.is_alive()
    first.command("abort", move, check=False)
    second.restart({})  # the target gives up what waits
    assert moving.ended().status == 1
    assert first.sandbox_of(pod.spec.uid)
    assert len(first.processes("redis-server")) == 1
