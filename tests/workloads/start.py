# SPDX-License-Identifier: Apache-2.0
"""Starts each workload in a pod of a node, from the testbed's images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.testbed import images
from tests.testbed.kubelet import Kubelet, Pod
from tests.testbed.node import Node, may_raise_limits
from tests.testbed.pods import ContainerSpec, PodSpec
from tests.workloads.asking import Client

HERE = Path(__file__).parent
VOLUME = "program"
LIBRARIES = ("geteuid",)


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
        env: its variables.
    """

    name: str
    kind: str
    port: int
    image: str
    command: tuple[str, ...] = ()
    program: str = ""
    env: Mapping[str, str] = field(default_factory=dict)


BUSY = Workload("busy", "busy", 7000, images.BUSYBOX, ("/program/busy", "7000", "8"), "busy.c")
ECHO = Workload(
    "asyncio", "echo", 7001, images.PYTHON, ("python3", "/program/echo.py", "7001"), "echo.py"
)
UDP = Workload(
    "udp", "udp", 7002, images.PYTHON, ("python3", "/program/datagrams.py", "7002"), "datagrams.py"
)
REDIS = Workload("redis", "redis", 6379, images.REDIS)
PRELOADED = {"AS_POSTGRES": "env LD_PRELOAD=/program/geteuid.so sh -c"}
# CRIU, which is root, cannot read the limits of another user's process without CAP_SYS_RESOURCE.
NGINX = Workload(
    "nginx", "http", 80, images.NGINX, () if may_raise_limits() else ("nginx", "-g", "user root;")
)
MEMCACHED = Workload(
    "memcached",
    "memcached",
    11211,
    images.MEMCACHED,
    () if may_raise_limits() else ("memcached", "-u", "root"),
)
WEBSOCKET = Workload(
    "websocket",
    "websocket",
    7003,
    images.PYTHON,
    ("python3", "/program/websocket.py", "7003"),
    "websocket.py",
)
POSTGRES = Workload(
    "postgres",
    "postgres",
    5432,
    images.POSTGRES,
    program="geteuid.c",
    env={} if may_raise_limits() else PRELOADED,
)
ALL = (BUSY, ECHO, UDP, REDIS, NGINX, POSTGRES)
MOVED = (*ALL, MEMCACHED, WEBSOCKET)
"""Those that move; the last two are not put to sleep by tests."""


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
    one = ContainerSpec("main", workload.image, workload.command, workload.env, mounts)
    spec = PodSpec(workload.name, (one,))
    if workload.program:
        _put(kubelet.node, spec.volume(VOLUME), HERE / workload.program)
    return Running(workload, kubelet.run_pod(spec), kubelet.node)


def _put(node: Node, directory: str, source: Path) -> None:
    node.write(f"{directory}/{source.name}", source.read_bytes(), 0o755)
    if source.suffix == ".c":
        built = f"{directory}/{source.stem}"
        argv = ["gcc", "-O2", "-Wall", "-Wextra", "-Werror", f"{directory}/{source.name}", "-o"]
        if source.stem in LIBRARIES:
            node.exec([*argv, f"{built}.so", "-shared", "-fPIC"])
        else:
            node.exec([*argv, built, "-static", "-pthread"])
