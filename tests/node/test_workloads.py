# SPDX-License-Identifier: Apache-2.0
"""The workloads and their client on a node where nothing sleeps: they answer, and notice faults."""

from __future__ import annotations

import pytest

from tests.testbed.kubelet import Kubelet
from tests.workloads import start

REQUESTS = 50


@pytest.mark.parametrize("workload", start.MOVED, ids=lambda one: one.name)
def test_it_answers_right(kubelet: Kubelet, workload: start.Workload) -> None:
    running = start.start(kubelet, workload)
    with running.client() as client:
        client.ask(REQUESTS)
        assert client.finish().is_well, client.report()
        assert client.report().asked == REQUESTS


def test_a_server_that_goes_away_counts_as_a_reset(kubelet: Kubelet) -> None:
    running = start.start(kubelet, start.REDIS)
    with running.client() as client:
        client.ask()
        kubelet.cri.stop_container(running.pod.container_id, 0)
        client.ask()
        assert client.report().resets == 1


def test_data_that_changes_counts_as_a_wrong_answer(kubelet: Kubelet) -> None:
    running = start.start(kubelet, start.REDIS)
    with running.client() as client:
        client.ask(3)
        kubelet.exec(running.pod, ["redis-cli", "FLUSHALL"])
        client.ask()
        assert client.report().wrong == 1


def test_a_datagram_without_an_answer_counts_as_lost(kubelet: Kubelet) -> None:
    running = start.start(kubelet, start.UDP)
    with running.client() as client:
        client.ask()
        pid = kubelet.node.exec(["pgrep", "-f", "datagrams.py"]).text.splitlines()[0]
        kubelet.node.exec(["kill", "-STOP", pid])
        try:
            client.ask()
        finally:
            kubelet.node.exec(["kill", "-CONT", pid])
        assert client.report().lost == 1


def test_a_pause_shows_in_the_client_and_in_the_program_itself(kubelet: Kubelet) -> None:
    running = start.start(kubelet, start.BUSY)
    with running.client() as client:
        client.ask(3)
        calm = client.report().longest_ms
        script = "kill -STOP $(pgrep -x busy); sleep 0.5; kill -CONT $(pgrep -x busy)"
        client.start(1)
        kubelet.node.exec(["sh", "-c", script])
        client.stop()
        for _ in range(1000):  # its timer's thread may run after the thread that answers
            client.ask()
            felt = client.report()
            if float(felt.said["pause_ms"]) > 400:
                break
    assert felt.is_well, felt
    assert felt.longest_ms > max(calm, 400)
    assert float(felt.said["pause_ms"]) > 400
