# SPDX-License-Identifier: Apache-2.0
"""What kubelet asks of a pod that sleeps: some calls wake it, the others see a running pod."""

from __future__ import annotations

import time

import grpc
import pytest

from cri_proto import runtime_v1_pb2 as cri
from tests.node.test_sleep import Sleepers, front_node, settings, sleepers
from tests.testbed.kubelet import Pod

__all__ = ["front_node", "settings", "sleepers"]

RUNTIME = "/runtime.v1.RuntimeService"
# What the placeholder and the CRIU that waits may have resident.
NEARLY_NOTHING = 4 << 20
QUIET_S = 1.0


def streams(pod: Pod) -> dict[str, tuple[object, type]]:
    """The calls that open a stream to a pod, with their replies."""
    one = pod.container_id
    return {
        "Exec": (
            cri.ExecRequest(container_id=one, cmd=["true"], stdout=True, stderr=True),
            cri.ExecResponse,
        ),
        "Attach": (cri.AttachRequest(container_id=one, stdout=True), cri.AttachResponse),
        "PortForward": (
            cri.PortForwardRequest(pod_sandbox_id=pod.sandbox_id, port=[6379]),
            cri.PortForwardResponse,
        ),
    }


@pytest.mark.parametrize("method", ["Exec", "Attach", "PortForward"])
def test_a_stream_wakes_before_it_is_opened(sleepers: Sleepers, method: str) -> None:
    pod = sleepers.redis()
    sleepers.sleep(pod)
    request, reply = streams(pod)[method]
    assert sleepers.kubelet.cri.call(method, request, reply).url.startswith("http")
    state = sleepers.state(pod)
    assert (state["state"], state["last_wake_cause"]) == ("running", method)
    assert sleepers.ask(pod, "PING") == "+PONG"


class Views:
    """All that CRI shows of a pod and its container, without what changes by itself."""

    def __init__(self, sleepers: Sleepers, pod: Pod) -> None:
        client = sleepers.kubelet.cri
        self.status = client.container_status(pod.container_id).status
        self.verbose = sorted(client.container_status(pod.container_id, verbose=True).info)
        self.sandbox = client.pod_sandbox_status(pod.sandbox_id).status
        labels = {"io.kubernetes.pod.uid": pod.spec.uid}
        (self.listed,) = client.list_containers(labels)
        (self.pod,) = [one for one in client.list_pod_sandbox() if one.id == pod.sandbox_id]

    def __eq__(self, other: object) -> bool:
        return vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]


def test_lists_and_statuses_do_not_change(sleepers: Sleepers) -> None:
    pod = sleepers.redis()
    before = Views(sleepers, pod)
    assert before.status.state == cri.CONTAINER_RUNNING
    sleepers.sleep(pod)
    assert Views(sleepers, pod) == before
    assert sleepers.state(pod)["state"] == "asleep", "looking wakes nobody"
    assert sleepers.command("wake", "redis").status == 0
    assert Views(sleepers, pod) == before


def stats(sleepers: Sleepers, pod: Pod) -> list[cri.ContainerStats]:
    """One container's figures by both calls that give them."""
    client = sleepers.kubelet.cri
    (listed,) = [s for s in client.list_container_stats() if s.attributes.id == pod.container_id]
    return [client.container_stats(pod.container_id), listed]


def test_figures_are_those_of_one_that_does_nothing(sleepers: Sleepers) -> None:
    pod = sleepers.redis()
    assert sleepers.ask(pod, f"SETRANGE large {8 * NEARLY_NOTHING} x").startswith(":")
    awake = stats(sleepers, pod)
    assert all(one.memory.rss_bytes.value > NEARLY_NOTHING for one in awake)
    sleepers.sleep(pod)
    first = stats(sleepers, pod)
    time.sleep(QUIET_S)
    second = stats(sleepers, pod)
    for one in (*first, *second):
        assert one.attributes.id == pod.container_id
        assert one.memory.rss_bytes.value < NEARLY_NOTHING
        assert one.memory.working_set_bytes.value < awake[0].memory.working_set_bytes.value
    # Each way of asking by itself: containerd answers a list from what it has read a moment ago.
    for way in zip(awake, first, second, strict=True):
        used = [one.cpu.usage_core_nano_seconds.value for one in way]
        assert used == sorted(used), "processor time never goes back"
        assert used[1] == used[2], "who sleeps uses none"
    assert second[0].cpu.timestamp > first[0].cpu.timestamp
    assert sleepers.state(pod)["state"] == "asleep"
    assert sleepers.command("wake", "redis").status == 0
    after = stats(sleepers, pod)
    assert after[0].cpu.usage_core_nano_seconds.value >= used[-1]
    assert after[0].memory.rss_bytes.value > NEARLY_NOTHING


def test_no_event_tells_of_a_sleep_or_a_wake(sleepers: Sleepers) -> None:
    pod = sleepers.redis()
    with grpc.insecure_channel(f"unix://{sleepers.shim.socket}") as channel:
        call = channel.unary_stream(f"{RUNTIME}/GetContainerEvents")
        stream = call(cri.GetEventsRequest().SerializeToString())
        time.sleep(QUIET_S)  # nobody says when containerd has begun to listen
        for _ in range(3):
            sleepers.sleep(pod)
            assert sleepers.ask(pod, "PING") == "+PONG"
            sleepers.eventually(lambda: sleepers.state(pod)["state"] == "running")
        sleepers.kubelet.cri.stop_container(pod.container_id, 0)
        seen = []
        for data in stream:  # containerd keeps what happened before anybody asked
            event = cri.ContainerEventResponse.FromString(data)
            if event.container_id != pod.container_id:
                continue
            seen.append(event.container_event_type)
            if event.container_event_type == cri.CONTAINER_STOPPED_EVENT:
                break
        stream.cancel()
    # Where somebody has listened before, the first two are not told again.
    assert seen[-1:] == [cri.CONTAINER_STOPPED_EVENT]
    assert seen[:-1] in ([], [cri.CONTAINER_CREATED_EVENT, cri.CONTAINER_STARTED_EVENT])


def test_resources_are_updated_without_a_wake(sleepers: Sleepers) -> None:
    pod = sleepers.redis()
    sleepers.sleep(pod)
    request = cri.UpdateContainerResourcesRequest(
        container_id=pod.container_id,
        linux=cri.LinuxContainerResources(memory_limit_in_bytes=256 << 20),
    )
    reply = cri.UpdateContainerResourcesResponse
    sleepers.kubelet.cri.call("UpdateContainerResources", request, reply)
    assert sleepers.state(pod)["state"] == "asleep"
    assert sleepers.ask(pod, "PING") == "+PONG"
