# SPDX-License-Identifier: Apache-2.0
"""``python -m tests.demo``: a pod started through podferry, which is then replaced and killed."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import click
import grpc

from shim.errors import PodferryError
from tests.bench.cri.restarts import Callers
from tests.testbed import service, testbed
from tests.testbed.cri import CriClient
from tests.testbed.kubelet import Kubelet, Pod
from tests.testbed.node import Node
from tests.testbed.pods import ContainerSpec, PodSpec
from tests.testbed.service import Shim

COUNTING = ("sh", "-c", "i=0; while :; do echo $i; i=$((i+1)); sleep 0.2; done")
CONNECTION_AGE_S = 3.0
RESTART_DEADLINE_S = 20.0


def main() -> None:
    """Tells the story from top to bottom; ends with an exit status other than 0 if a part fails."""
    step("A node: its own containerd, runc and CNI; podferry built from this tree and installed")
    with testbed.nodes(1) as [node]:
        service.install(node)
        with Shim(node, f"[cri]\nconnection_age_s = {CONNECTION_AGE_S}\n") as shim:
            show_pod(node, shim)
    step("The node is gone, and everything that was made with it")


def show_pod(node: Node, shim: Shim) -> None:
    """The story on a node whose podferry runs."""
    tell(f"kubelet's socket is {service.SOCKET}; behind it is containerd's, unmodified")
    step("A pod, started as kubelet does: RunPodSandbox, CreateContainer, StartContainer")
    with Kubelet(node, service.SOCKET) as kubelet:
        tell(f"the runtime, seen through podferry: {kubelet.handshake()}")
        with watched(node):
            begun = time.monotonic()
            pod = kubelet.run_pod(PodSpec("counter", (ContainerSpec("c", command=COUNTING),)))
            took_ms = (time.monotonic() - begun) * 1e3
        tell(f"pod default/counter runs at {pod.ip}, started in {took_ms:.0f} ms")
        answer = kubelet.exec(pod, ["hostname"])
        tell(f"exec hostname: {answer.stdout.decode().strip()}")

        step("A new podferry takes the socket over while 16 clients keep asking")
        with Callers(shim.socket) as callers:
            time.sleep(1)
            tell(node.exec([service.PODFERRY, "handover"]).text.strip())
            time.sleep(CONNECTION_AGE_S * 1.1 + 2)
        lost = sum(callers.lost.values())
        tell(f"{callers.good} calls answered, {lost} lost, slowest {callers.slowest_ms:.0f} ms")

        step("kill -9 of podferry: the pod does not notice, the next podferry knows it")
        before = last_number(kubelet.log(pod))
        node.exec(["pkill", "-KILL", "-f", "^/opt/podferry/bin/python.*serve"])
        begun = time.monotonic()
        shim.daemon.start()
        wait_answer(shim)
        tell(f"podferry answers again after {(time.monotonic() - begun) * 1e3:.0f} ms")
        wait_for_number(kubelet, pod, before + 5)
        tell(f"the pod counted on: from {before} to {last_number(kubelet.log(pod))}")
        click.echo()
        click.echo(node.exec([service.PODFERRY, "status"]).text)
        kubelet.delete_pod(pod, grace_s=1)
        tell("pod deleted")
        if lost:
            raise PodferryError(f"the handover lost {lost} calls: {dict(callers.lost)}")


@contextmanager
def watched(node: Node) -> Iterator[None]:
    """Shows the calls of the block as `podferry top` saw them."""
    seen: list[str] = []
    argv = [service.PODFERRY, "top", "--output", "json", "--count", "8"]
    top = threading.Thread(target=lambda: seen.append(node.exec(argv).text))
    top.start()
    time.sleep(1.5)  # until it watches; a late watcher would only show less
    yield
    top.join()
    for line in "".join(seen).splitlines():
        call = json.loads(line)
        if call["ended"]:
            name = call["method"].rpartition("/")[2]
            click.echo(
                f"     {name:<18}{call['pod']:<18}{call['code']:<4}"
                f"{call['took_ms']:8.1f} ms, of which podferry's "
                f"{call['took_ms'] - call['backend_ms']:.1f} ms"
            )


def wait_answer(shim: Shim) -> None:
    """Waits until CRI answers."""
    deadline = time.monotonic() + RESTART_DEADLINE_S
    while True:
        try:
            with CriClient(shim.socket) as client:
                client.version(deadline_s=1)
            return
        except grpc.RpcError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def last_number(log: str) -> int:
    """The last number the pod has written."""
    lines = [line.split()[-1] for line in log.splitlines() if line.strip()]
    return int(lines[-1]) if lines else 0


def wait_for_number(kubelet: Kubelet, pod: Pod, number: int) -> None:
    """Waits until the pod has counted so far.

    Raises:
        PodferryError: it has not within the deadline.
    """
    deadline = time.monotonic() + RESTART_DEADLINE_S
    while last_number(kubelet.log(pod)) < number:
        if time.monotonic() > deadline:
            raise PodferryError("the pod has stopped counting", where="default/counter")
        time.sleep(0.1)


def step(text: str) -> None:
    """A heading."""
    click.secho(f"\n== {text}", bold=True)


def tell(text: str) -> None:
    """A line of the story."""
    click.echo(f"   {text}")


if __name__ == "__main__":
    try:
        main()
    except PodferryError as error:
        sys.exit(f"demo: {error}")
