# SPDX-License-Identifier: Apache-2.0
"""The service is replaced while pods sleep, fall asleep and are woken: they notice nothing."""

from __future__ import annotations

import pytest

from tests.node.test_sleep import ON_DISK, PODFERRY, Sleepers, front_node, settings, sleepers
from tests.testbed import images
from tests.testbed.kubelet import Pod
from tests.testbed.pods import ContainerSpec, PodSpec

__all__ = ["front_node", "settings", "sleepers"]


def hand_over(sleepers: Sleepers) -> int:
    """An upgrade, as `podferry handover` does it; gives the predecessor, which lives on a while."""
    before = sleepers.shim.pid
    result = sleepers.command("handover")
    assert result.status == 0, result.stderr.decode()
    pid = int(sleepers.command_json("status")["service"]["pid"])
    assert pid != before
    sleepers.shim.daemon.pid = pid  # who stops the service means this one
    return before


def retired(sleepers: Sleepers, pid: int) -> None:
    """Waits for the end of a predecessor."""
    sleepers.eventually(lambda: not sleepers.node.path(f"/proc/{pid}").exists())


@pytest.mark.parametrize("settings", ["", ON_DISK])
def test_a_sleeper_is_taken_over(sleepers: Sleepers) -> None:
    pod = sleepers.redis()
    assert sleepers.ask(pod, "SET a 41") == "+OK"
    sleepers.sleep(pod)
    before = hand_over(sleepers)
    sleepers.eventually(lambda: sleepers.state(pod)["state"] == "asleep")
    assert sleepers.processes("redis-server") == ""
    assert sleepers.ask(pod, "INCR a") == ":42"
    sleepers.eventually(lambda: sleepers.state(pod)["wakes"] == 1)
    sleepers.eventually(lambda: sleepers.left() == [])
    sleepers.sleep(pod)
    assert sleepers.ask(pod, "INCR a") == ":43"
    retired(sleepers, before)


def test_exec_through_the_predecessor_wakes(sleepers: Sleepers) -> None:
    pod = sleepers.redis()
    sleepers.sleep(pod)
    sleepers.kubelet.cri.version()  # its connection is the predecessor's
    before = hand_over(sleepers)
    assert sleepers.kubelet.exec(pod, ["echo", "there"]).stdout == b"there\n"
    sleepers.eventually(lambda: sleepers.state(pod)["state"] == "running")
    sleepers.eventually(lambda: sleepers.left() == [])
    assert sleepers.ask(pod, "PING") == "+PONG"
    retired(sleepers, before)


def test_a_sleep_that_is_under_way_is_not_undone(sleepers: Sleepers) -> None:
    pods = [sleepers.redis(), *(other(sleepers, name) for name in ("second", "third"))]
    asking = [
        sleepers.node.daemon(f"asking-{pod.spec.name}", [PODFERRY, "sleep", pod.spec.name])
        for pod in pods
    ]
    for one in asking:
        one.start()
    before = hand_over(sleepers)
    sleepers.eventually(lambda: not any(one.is_running() for one in asking))
    for pod, one in zip(pods, asking, strict=True):
        # Asked in the moment of the change, it is refused and runs; else it sleeps, wholly.
        said = one.log_tail()
        wanted = "asleep" if "asleep after" in said else "running"
        assert sleepers.state(pod)["state"] == wanted, said
    assert sleepers.ask(pods[0], "PING") == "+PONG"
    for pod in pods:
        assert sleepers.command("wake", pod.spec.name).status == 0
    sleepers.eventually(lambda: sleepers.left() == [])
    retired(sleepers, before)


def other(sleepers: Sleepers, name: str) -> Pod:
    """One more redis, with another name and on no port that anybody asks."""
    return sleepers.kubelet.run_pod(PodSpec(name, (ContainerSpec("main", images.REDIS),)))
