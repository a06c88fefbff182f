# SPDX-License-Identifier: Apache-2.0
"""Fixtures for tests of a move's monitors: two nodes, a container on one, its place on the other.

move_nodes   two nodes for the session, with this tree's Python sources on them
pair         kubelet on both; whatever a test leaves held or claimed ends with it
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.node.fix_monitor import PYTHON, SOURCES, Watched, eventually, require_no_monitor
from tests.node.redis_client import Client
from tests.testbed import front, images, recipe, testbed
from tests.testbed.kubelet import Pod
from tests.testbed.node import Node
from tests.testbed.pods import ContainerSpec, PodSpec, container_config, sandbox_config

FRESH, RUNNING, CHECKPOINTING, ASLEEP, WAKING, ENDING, HELD, DEPARTED, CLAIMED, STAGED = range(10)
IMAGES = "/run/podferry-driver/images"
BUNDLES = "/run/containerd/io.containerd.runtime.v2.task/k8s.io"
START_DEADLINE_S = 60
COUNT = "i=0; while :; do echo $i; i=$((i+1)); sleep 0.2; done"
REDIS = ContainerSpec("main", image=images.REDIS)
COUNTER = ContainerSpec("main", command=("sh", "-c", COUNT))


class Mover(Watched):
    """kubelet on a node, and the steps of a move on its monitors."""

    def step(self, verb: str, container_id: str, *words: str, log_level: int = 2) -> dict[str, Any]:
        """move_driver.py's answer, also an error's."""
        argv = [PYTHON, f"{SOURCES}/move_driver.py", verb, container_id, *words]
        env = {"PYTHONPATH": SOURCES, "PODFERRY_TEST_LOG_LEVEL": str(log_level)}
        result = self.node.exec(argv, env=env, check=False)
        assert result.status == 0, result.text + result.stderr.decode()
        answer: dict[str, Any] = json.loads(result.text)
        return answer

    def must(self, state: int, verb: str, container_id: str, *words: str) -> dict[str, Any]:
        """The same; afterwards the container is in that state."""
        answer = self.step(verb, container_id, *words)
        assert answer.get("state") == state, (verb, answer, self.monitor_log(container_id))
        return answer

    def state_of(self, container_id: str) -> int:
        """Its state."""
        return int(self.step("state", container_id)["state"])

    def monitor_log(self, container_id: str) -> str:
        """What its monitor, CRIU and pager have to say."""
        try:
            return (self.directory(container_id) / "log").read_text()[-3000:]
        except OSError:
            return ""

    def kill(self, *pids: int) -> None:
        """kill -9."""
        self.node.exec(["kill", "-KILL", *map(str, pids)])

    def criu(self, container_id: str) -> list[int]:
        """The CRIU processes that are children of its monitor."""
        monitor = self.step("state", container_id)["monitor_pid"]
        found = self.node.exec(["pgrep", "-P", str(monitor), "-x", "criu"], check=False)
        return [int(pid) for pid in found.text.split()]

    def still(self, pids: set[int]) -> bool:
        """Whether none of these processes has used the CPU for a moment."""
        before = [self._cpu(pid) for pid in pids]
        self.node.exec(["sleep", "0.3"])
        return before == [self._cpu(pid) for pid in pids]

    def _cpu(self, pid: int) -> list[str]:
        stat = self.node.read(f"/proc/{pid}/stat").decode().rpartition(")")[2].split()
        return stat[11:13]


@dataclass
class Claim:
    """A replacement that waits: its pod, its container, and the StartContainer that is under way.

    Attributes:
        pod: on the node that is reached.
        containers: by name.
        starts: the calls; each is answered while its container waits.
        failures: of those calls.
    """

    pod: Pod
    containers: dict[str, str] = field(default_factory=dict)
    starts: list[threading.Thread] = field(default_factory=list)
    failures: list[grpc.RpcError] = field(default_factory=list)

    @property
    def container_id(self) -> str:
        """Of its only container."""
        (only,) = self.containers.values()
        return only

    def started(self) -> None:
        """Waits until kubelet's calls have returned, and well."""
        for thread in self.starts:
            thread.join(START_DEADLINE_S)
            assert not thread.is_alive(), "StartContainer does not return"
        assert not self.failures, self.failures


@dataclass
class Pair:
    """Two nodes."""

    a: Mover
    b: Mover
    claims: list[Claim] = field(default_factory=list)

    def claim(self, spec: PodSpec) -> Claim:
        """Makes the same pod on B as kubelet does; each StartContainer waits."""
        b = self.b
        b._make_directories(spec)
        config = sandbox_config(spec)
        pod = Pod(spec, config, b.cri.run_pod_sandbox(config))
        b.pods.append(pod)
        pod.ip = str(b.cri.pod_sandbox_status(pod.sandbox_id).status.network.ip)
        claim = Claim(pod)
        self.claims.append(claim)
        for one in spec.containers:
            self._claim_one(claim, one)
        return claim

    def end_claims(self) -> None:
        """What still waits ends; containerd does not stop what it is starting."""
        for claim in self.claims:
            for container_id, thread in zip(claim.containers.values(), claim.starts, strict=True):
                if thread.is_alive() and self.b.directory(container_id).exists():
                    self.b.oci("delete", "--force", container_id)
                thread.join(START_DEADLINE_S)

    def _claim_one(self, claim: Claim, one: ContainerSpec) -> None:
        b, pod = self.b, claim.pod
        log = b.node.path(f"{pod.spec.directory}/containers/{one.name}/0")
        log.parent.mkdir(parents=True, exist_ok=True)
        log.touch()
        made = b.cri.create_container(pod.sandbox_id, container_config(pod.spec, one), pod.config)
        pod.containers[one.name] = claim.containers[one.name] = made
        pod.attempts[one.name] = 0
        b.step("announce", made)

        def start() -> None:
            try:
                b.cri.start_container(made)
            except grpc.RpcError as error:
                claim.failures.append(error)

        thread = threading.Thread(target=start, daemon=True)
        thread.start()
        claim.starts.append(thread)
        eventually(lambda: b.directory(made).joinpath("control").exists(), "the monitor")
        eventually(lambda: b.state_of(made) == CLAIMED, "the claim")

    def carry(self, source: str, target: str) -> str:
        """Copies images and writable layer by plain file copy; where the images are on B."""
        place = f"{IMAGES}/{source}"
        there = self.b.node.path(place)
        shutil.rmtree(there, ignore_errors=True)
        there.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(self.a.node.path(place), there, symlinks=True)
        upper = self.a.step("upper", source)["upper"]
        rootfs = self.b.node.path(f"{BUNDLES}/{target}/rootfs")
        # Through the mount: what is below it is not ours to write to.
        self._copy(self.a.node.path(upper), rootfs)
        return place

    @staticmethod
    def _copy(upper: Path, rootfs: Path) -> None:
        for path in sorted(upper.rglob("*")):
            to = rootfs / path.relative_to(upper)
            if path.is_symlink() or not (path.is_dir() or path.is_file()) or os.path.ismount(to):
                continue
            if path.is_dir():
                to.mkdir(exist_ok=True)
            else:
                shutil.copy2(path, to)

    def bring_address(self, address: str, target: str) -> None:
        """Gives B's pod the old address, as sockets have it."""
        init = self.b.step("state", target)["init_pid"]
        argv = ["nsenter", "-t", str(init), "-n", "ip", "addr", "add", f"{address}/32", "dev", "lo"]
        self.b.node.exec(argv)

    def reroute(self, address: str, new: str) -> None:
        """Plain host routes: A reaches the old address through B, and B through its pod."""
        self.a.node.exec(["ip", "route", "replace", f"{address}/32", "via", self.b.node.address])
        self.b.node.exec(["ip", "route", "replace", f"{address}/32", "via", new])


@pytest.fixture(scope="session")
def move_nodes(docker_engine: None) -> Iterator[list[Node]]:
    """Two nodes with podferry-runtime in front of runc."""
    with testbed.nodes(2) as made:
        ignore = shutil.ignore_patterns("__pycache__", "*.so")
        for node in made:
            front.install(node)
            place = node.path(SOURCES)
            for package in ("shim", "cri_proto"):
                shutil.copytree(recipe.REPOSITORY / package, place / package, ignore=ignore)
            for name in ("monitor_driver.py", "move_driver.py"):
                shutil.copy(Path(__file__).with_name(name), place)
        yield made


@pytest.fixture
def mover(pair: Pair) -> Mover:
    """kubelet on the node that is left."""
    return pair.a


@pytest.fixture
def served(pair: Pair) -> Iterator[tuple[str, Client]]:
    """A redis on A, and a client that is connected."""
    pod = pair.a.run_pod(PodSpec("redis", (REDIS,)))

    def answers() -> bool:
        return pair.a.node.exec(["nc", "-z", pod.ip, "6379"], check=False).status == 0

    eventually(answers, "redis")
    client = Client(pair.a, pod.ip)
    try:
        client.ask()
        yield pod.container_id, client
    finally:
        client.socket.close()


@pytest.fixture
def pair(move_nodes: list[Node]) -> Iterator[Pair]:
    """kubelet on both; afterwards no monitor may be left."""
    with ExitStack() as stack:
        a, b = (stack.enter_context(Mover(node)) for node in move_nodes)
        made = Pair(a, b)
        yield made
        made.end_claims()
        for one in (a, b):
            if not one.node.containerd.daemon.is_running():
                one.node.containerd.start()
                one.redial()
    for node in move_nodes:
        require_no_monitor(node)
        shutil.rmtree(node.path(IMAGES), ignore_errors=True)
