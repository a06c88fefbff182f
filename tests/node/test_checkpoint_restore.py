# SPDX-License-Identifier: Apache-2.0
"""containerd 2.1 restores podferry's archives on create, as kubelet would ask it to."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from cri_proto import runtime_v1_pb2 as cri
from tests.conformance import registry
from tests.node.test_checkpoint_container import ARCHIVE, checkpoint
from tests.node.test_sleep import Sleepers, front_node, settings, sleepers
from tests.testbed import images
from tests.testbed.cri import IMAGE
from tests.testbed.kubelet import Pod
from tests.testbed.node import Node
from tests.testbed.pods import ContainerSpec, PodSpec, container_config, sandbox_config
from tests.testbed.process import POLL_S

__all__ = ["front_node", "settings", "sleepers"]

DEADLINE_S = 30.0


@pytest.fixture
def image_source(front_node: Node) -> Iterator[str]:
    """A redis in a registry: containerd always pulls the image that an archive names."""
    node = front_node
    node.write(f"{registry.DIRECTORY}/registry.yml", registry.CONFIG)
    serve = ["docker-registry", "serve", f"{registry.DIRECTORY}/registry.yml"]
    daemon = node.daemon("registry", serve)
    daemon.start()
    argv = ["curl", "--silent", "--fail", "--max-time", "2", f"http://{registry.ADDRESS}/v2/"]
    until = time.monotonic() + DEADLINE_S
    while node.exec(argv, check=False).status != 0:
        assert time.monotonic() < until, daemon.log_tail()
        time.sleep(POLL_S)
    name = f"{registry.ADDRESS}/{images.REDIS.partition('/')[2]}"
    ctr = ["ctr", "--namespace=k8s.io", "images"]
    try:
        node.exec([*ctr, "tag", "--force", images.REDIS, name])
        node.exec([*ctr, "push", "--plain-http", name])
        node.exec([*ctr, "remove", name])
        node.write(registry.HOSTS, registry.MIRROR)
        yield name
    finally:
        node.exec([*ctr, "remove", name], check=False)
        node.path(registry.HOSTS).unlink(missing_ok=True)
        daemon.stop("KILL")
        node.exec(["rm", "-rf", registry.DIRECTORY])


def restored(sleepers: Sleepers, archive: str) -> Pod:
    """A new pod whose container is made from an archive."""
    kubelet = sleepers.kubelet
    one = ContainerSpec("main", archive)
    spec = PodSpec("again", (one,))
    config = sandbox_config(spec)
    kubelet._make_directories(spec)
    pod = Pod(spec, config, kubelet.cri.run_pod_sandbox(config))
    kubelet.pods.append(pod)
    pod.ip = str(kubelet.cri.pod_sandbox_status(pod.sandbox_id).status.network.ip)
    log = kubelet.node.path(f"{spec.directory}/containers/main/0")
    log.parent.mkdir(parents=True)
    log.touch()
    made = kubelet.cri.create_container(pod.sandbox_id, container_config(spec, one), config)
    pod.containers["main"], pod.attempts["main"] = made, 0
    kubelet.cri.start_container(made)
    return pod


def test_containerd_restores_the_archive_into_another_pod(
    sleepers: Sleepers, image_source: str
) -> None:
    # Only an image that was pulled has a digest that another pull finds.
    wanted = cri.PullImageRequest(image=cri.ImageSpec(image=image_source))
    client = sleepers.kubelet.cri
    client.call("PullImage", wanted, cri.PullImageResponse, service=IMAGE)
    pod = sleepers.kubelet.run_pod(PodSpec("redis", (ContainerSpec("main", image_source),)))
    sleepers.eventually(lambda: sleepers.ask(pod, "PING") == "+PONG")
    assert sleepers.ask(pod, "SET a 41") == "+OK"
    sleepers.kubelet.exec(pod, ["sh", "-c", "echo written > /tmp/file"])
    checkpoint(sleepers.kubelet, pod)
    try:
        sleepers.kubelet.delete_pod(pod, grace_s=0)
        again = restored(sleepers, ARCHIVE)
        sleepers.eventually(lambda: sleepers.ask(again, "PING") == "+PONG")
        assert sleepers.ask(again, "INCR a") == ":42"
        done = sleepers.kubelet.exec(again, ["cat", "/tmp/file"])
        assert done.stdout == b"written\n"
    finally:
        sleepers.node.path(ARCHIVE).unlink(missing_ok=True)
