# SPDX-License-Identifier: Apache-2.0
"""Real programs are put to sleep and woken by command and by packets; no user must notice."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from tests.testbed import front, service
from tests.testbed.kubelet import Kubelet
from tests.testbed.node import Node
from tests.testbed.process import POLL_S
from tests.testbed.service import Shim
from tests.workloads import start
from tests.workloads.asking import Client
from tests.workloads.start import Running

ROUNDS = 4
REQUESTS = 10
DEADLINE_S = 30.0


class Bed:
    """kubelet on podferry's socket of a node with monitors, and podferry's commands there."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.kubelet = Kubelet(node, service.SOCKET)

    def start(self, workload: start.Workload) -> Running:
        """Starts a workload."""
        return start.start(self.kubelet, workload)

    def podferry(self, *words: str) -> str:
        """A command of podferry's, which must succeed."""
        return self.node.exec([service.PODFERRY, *words]).text

    def sleep(self, running: Running) -> None:
        """Puts it to sleep; it must be asleep then, unless somebody has woken it at once."""
        self.podferry("sleep", running.workload.name)

    def wake(self, running: Running) -> None:
        """Wakes it by command."""
        self.podferry("wake", running.workload.name)

    def state(self, running: Running) -> dict[str, object]:
        """What `podferry pods` says of it."""
        listed = json.loads(self.podferry("pods", "--output", "json"))
        found: dict[str, object] = next(one for one in listed if one["uid"] == running.pod.spec.uid)
        return found

    def woken(self, running: Running, cause: str) -> None:
        """Waits until podferry has noted a wake of that cause."""
        until = time.monotonic() + DEADLINE_S
        while (state := self.state(running))["state"] != "running":
            assert time.monotonic() < until, state
            time.sleep(POLL_S)
        assert state["last_wake_cause"] == cause


@pytest.fixture(scope="module")
def monitored_node(node_pair: list[Node]) -> Iterator[Node]:
    """A node whose containers have monitors."""
    service.install(node_pair[0])
    with front.installed(node_pair[0]):
        yield node_pair[0]


@pytest.fixture
def bed(two_nodes: tuple[Node, Node], monitored_node: Node) -> Iterator[Bed]:
    """podferry and kubelet; the pods end with the test."""
    with Shim(monitored_node):
        made = Bed(monitored_node)
        try:
            yield made
        finally:
            made.kubelet.close()


def assert_well(client: Client) -> None:
    """Every answer came and was right."""
    felt = client.report()
    assert felt.is_well, felt


@pytest.mark.parametrize("workload", start.ALL, ids=lambda one: one.name)
def test_it_answers_right_after_sleeps_ended_by_command(bed: Bed, workload: start.Workload) -> None:
    running = bed.start(workload)
    with running.client() as client:
        client.ask(REQUESTS)
        for _ in range(ROUNDS):
            bed.sleep(running)
            assert bed.state(running)["state"] == "asleep"
            bed.wake(running)
            client.ask(REQUESTS)
            assert_well(client)
            client.fresh()
        client.finish()
        assert_well(client)


@pytest.mark.parametrize("workload", start.ALL, ids=lambda one: one.name)
def test_its_first_packet_wakes_it_and_is_answered_right(
    bed: Bed, workload: start.Workload
) -> None:
    running = bed.start(workload)
    with running.client() as client:
        client.ask(REQUESTS)
        for number in range(ROUNDS):
            bed.sleep(running)
            assert bed.state(running)["state"] == "asleep"
            if number % 2 and workload.kind != "udp":
                client.fresh()  # a connection that did not exist, made by the packet that wakes it
            client.ask(REQUESTS)
            assert_well(client)
            bed.woken(running, "packet")
        client.finish()
        assert_well(client)


@pytest.mark.parametrize("workload", start.ALL, ids=lambda one: one.name)
def test_sleeps_amid_traffic_lose_nothing(bed: Bed, workload: start.Workload) -> None:
    running = bed.start(workload)
    with running.client() as client:
        client.start(1)
        for _ in range(ROUNDS):
            bed.sleep(running)
            bed.wake(running)
        client.stop()
        client.finish()
        assert_well(client)
