# SPDX-License-Identifier: Apache-2.0
"""Fixtures for tests of the container monitor: a node whose runc has podferry-runtime in front.

front_node   one node for the session, with this tree's Python sources on it
watched      kubelet on its containerd, with what one asks of monitors; its pods end with the test
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cri_proto import runtime_v1_pb2 as pb
from tests.testbed import front, recipe, testbed
from tests.testbed.kubelet import Kubelet, Pod
from tests.testbed.node import Node
from tests.testbed.pods import ContainerSpec, PodSpec
from tests.testbed.process import Result

SOURCES = "/var/tmp/podferry-sources"
PYTHON = "/opt/podferry/bin/python3"
ROOT = "/run/containerd/runc/k8s.io"
MONITORS = "/run/podferry/monitors/k8s.io"
SETTLE_DEADLINE_S = 30.0
POLL_S = 0.02


def eventually(holds: Callable[[], Any], what: str) -> Any:
    """Waits until something holds and returns what it gave.

    Raises:
        AssertionError: it does not hold in time.
    """
    deadline = time.monotonic() + SETTLE_DEADLINE_S
    while time.monotonic() < deadline:
        value = holds()
        if value:
            return value
        time.sleep(POLL_S)
    raise AssertionError(f"not in {SETTLE_DEADLINE_S} s: {what}")


class Watched(Kubelet):
    """kubelet on a node with monitors, and the questions that tests have."""

    def start(self, name: str, *command: str, **more: Any) -> str:
        """Starts a pod with one container; returns the container's id."""
        spec = ContainerSpec("main", command=command, **more)
        return self.run_pod(PodSpec(name, (spec,))).container_id

    def shell(self, name: str, script: str, **more: Any) -> str:
        """Starts a pod whose only container runs a shell script."""
        return self.start(name, "sh", "-c", script, **more)

    def pod_of(self, container_id: str) -> Pod:
        """The pod of a container."""
        return next(pod for pod in self.pods if container_id in pod.containers.values())

    # ---- the monitor

    def directory(self, container_id: str) -> Path:
        """Its state directory as the host sees it."""
        return self.node.path(f"{MONITORS}/{container_id}")

    def drive(
        self, verb: str, container_id: str, *words: str, log_level: int = 2
    ) -> dict[str, Any]:
        """monitor_driver.py's answer."""
        argv = [PYTHON, f"{SOURCES}/monitor_driver.py", verb, container_id, *words]
        env = {"PYTHONPATH": SOURCES, "PODFERRY_TEST_LOG_LEVEL": str(log_level)}
        result = self.node.exec(argv, env=env, check=False)
        assert result.status == 0, result.text + result.stderr.decode()
        answer: dict[str, Any] = json.loads(result.text)
        return answer

    def sleep(self, container_id: str, trigger: str = "", log_level: int = 2) -> dict[str, Any]:
        """Puts it to sleep; must succeed."""
        words = [trigger] if trigger else []
        answer = self.drive("sleep", container_id, *words, log_level=log_level)
        assert answer.get("state") == ASLEEP, answer
        return answer

    def wake(self, container_id: str) -> dict[str, Any]:
        """Wakes it; must succeed."""
        answer = self.drive("wake", container_id)
        assert answer.get("state") == RUNNING, answer
        return answer

    def state(self, container_id: str) -> dict[str, Any]:
        """The monitor's snapshot."""
        return self.drive("state", container_id)

    # ---- the runtime below

    def oci(self, *words: str, check: bool = True) -> Result:
        """The front as containerd calls it."""
        return self.node.exec([front.BINARY, "--root", ROOT, *words], check=check)

    def runc_state(self, container_id: str) -> dict[str, Any]:
        """runc's own state file."""
        state: dict[str, Any] = json.loads(self.node.read(f"{ROOT}/{container_id}/state.json"))
        return state

    def cgroup_procs(self, container_id: str, kind: str = "pids") -> set[int]:
        """The processes of a container's cgroup."""
        paths = self.runc_state(container_id)["cgroup_paths"]
        place = paths.get(kind) or paths[""]
        # Read on the node: the kernel gives pids as the reader's pid namespace counts.
        return {int(line) for line in self.node.exec(["cat", f"{place}/cgroup.procs"]).text.split()}

    def alive(self, pid: int) -> bool:
        """Whether a process of the node runs; a zombie does not."""
        try:
            stat = self.node.read(f"/proc/{pid}/stat").decode()
        except (FileNotFoundError, ProcessLookupError):
            return False
        return stat.rpartition(")")[2].split()[0] not in "ZX"

    # ---- as kubelet sees it

    def status(self, container_id: str) -> pb.ContainerStatus:
        """The CRI status."""
        return self.cri.container_status(container_id).status

    def is_running(self, container_id: str) -> bool:
        """Whether kubelet would take it for running."""
        return bool(self.status(container_id).state == pb.CONTAINER_RUNNING)

    def ended(self, container_id: str) -> pb.ContainerStatus:
        """The CRI status once it has ended."""

        def look() -> pb.ContainerStatus | None:
            status = self.status(container_id)
            return status if status.state == pb.CONTAINER_EXITED else None

        status: pb.ContainerStatus = eventually(look, f"the end of {container_id}")
        return status

    def lines(self, container_id: str) -> list[str]:
        """What it has written to its log, without CRI's prefix."""
        log = self.log(self.pod_of(container_id))
        return [line.split(" ", 3)[3] for line in log.splitlines()]


FRESH, RUNNING, ASLEEP = 0, 1, 3


def require_no_monitor(node: Node) -> None:
    """Makes sure that no monitor's directory is left; takes it away, so that one test fails of it.

    Raises:
        AssertionError: a deleted pod has left one.
    """
    place = node.path(MONITORS)
    left = [*place.iterdir()] if place.exists() else []
    told = [f"{one.name}: {sorted(path.name for path in one.iterdir())}" for one in left]
    for one in left:
        shutil.rmtree(one, ignore_errors=True)
    assert not left, f"a deleted pod has left a monitor: {told}"


@pytest.fixture(scope="session")
def front_node(docker_engine: None) -> Iterator[Node]:
    """One node with podferry-runtime in front of runc."""
    with testbed.nodes(1) as (node,):
        front.install(node)
        place = node.path(SOURCES)
        ignore = shutil.ignore_patterns("__pycache__", "*.so", "bin")
        for package in ("shim", "cri_proto"):
            shutil.copytree(recipe.REPOSITORY / package, place / package, ignore=ignore)
        shutil.copy(Path(__file__).with_name("monitor_driver.py"), place)
        yield node


@pytest.fixture
def watched(front_node: Node) -> Iterator[Watched]:
    """kubelet on that node's containerd; afterwards no monitor may be left."""
    with Watched(front_node) as made:
        yield made
        if not front_node.containerd.daemon.is_running():
            front_node.containerd.start()
            made.redial()
    require_no_monitor(front_node)
