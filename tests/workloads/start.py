# SPDX-License-Identifier: Apache-2.0
"""Starts each workload in a pod of a node, from the testbed's images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.testbed import images
from tests.testbed.kubelet import Kubelet, Pod
from tests.testbed.node import Node, may_raise_limits
from tests.testbed.pods import ContainerSpec, PodSpec
from tests.workloads.asking import Client

HERE = Path(__file__).parent
VOLUME = "program"


@dataclass(frozen=True)
class Workload:
    """A program in a pod.

    Attributes:
        name: its name, and its pod's.
        kind: what its client speaks.
        port: where it listens.
        image: what it runs from.
        command: what runs; () is the image's own command.
        program: a file of this directory that is found at /program in the pod.
    """

    name: str
    kind: str
    port: int
    image: str
    command: tuple[str, ...] = ()
    program: str = ""


BUSY = Workload("busy", "busy", 7000, images.BUSYBOX, ("/program/busy", "7000", "8"), "busy.c")
ECHO = Workload(
    "asyncio", "echo", 7001, images.PYTHON, ("python3", "/program/echo.py", "7001"), "echo.py"
)
UDP = Workload(
    "udp", "udp", 7002, images.PYTHON, ("python3", "/program/datagrams.py", "7002"), "datagrams.py"
)
REDIS = Workload("redis", "redis", 6379, images.REDIS)
# CRIU, which is root, cannot read the limits of another user's process without CAP_SYS_RESOURCE.
NGINX = Workload(
    "nginx", "http", 80, images.NGINX, () if may_raise_limits() else ("nginx", "-g", "user root;")
)
ALL = (BUSY, ECHO, UDP, REDIS, NGINX)


@dataclass(frozen=True)
class Running:
    """A workload that runs.

    Attributes:
        workload: what it is.
        pod: where it runs.
        node: its node.
    """

    workload: Workload
    pod: Pod
    node: Node

    def client(self) -> Client:
        """A client on its node, connected."""
        return Client(self.node, self.workload.kind, self.pod.ip, self.workload.port)


def start(kubelet: Kubelet, workload: Workload) -> Running:
    """Starts it in a pod of its own; its client waits until it listens."""
    mounts = {VOLUME: "/program"} if workload.program else {}
    one = ContainerSpec("main", workload.image, workload.command, mounts=mounts)
    spec = PodSpec(workload.name, (one,))
    if workload.program:
        _put(kubelet.node, spec.volume(VOLUME), HERE / workload.program)
    return Running(workload, kubelet.run_pod(spec), kubelet.node)


def _put(node: Node, directory: str, source: Path) -> None:
    node.write(f"{directory}/{source.name}", source.read_bytes(), 0o755)
    if source.suffix == ".c":
        warnings = ["-Wall", "-Wextra", "-Werror"]
        built = f"{directory}/{source.stem}"
        argv = ["gcc", "-O2", *warnings, "-pthread", "-static"]
        node.exec([*argv, "-o", built, f"{directory}/{source.name}"])
