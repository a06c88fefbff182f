# SPDX-License-Identifier: Apache-2.0
"""The checkpoint engine's requests, tried on containers of containerd and runc with the real CRIU.

No monitor takes part: criu_driver.py stands in for it on the node, containerd's shim being stopped.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.testbed import images, recipe
from tests.testbed.kubelet import Kubelet, Pod
from tests.testbed.node import Node
from tests.testbed.pods import ContainerSpec, PodSpec
from tests.testbed.process import POLL_S, Daemon, Result

PLACE = "/var/tmp/podferry-engine"
PYTHON = "/opt/podferry/bin/python3"
DEADLINE_S = 30.0

Figures = dict[str, Any]

# Connects, asks once, shows that it did by a file, waits for that file to go and asks again.
CLIENT = """
import os, socket, sys, time
address, port, first, second, mark = sys.argv[1:]
until = time.monotonic() + 60
def connect():
    while True:
        try:
            return socket.create_connection((address, int(port)), timeout=10)
        except ConnectionRefusedError:  # it does not listen yet
            if time.monotonic() > until:
                raise
            time.sleep(0.02)
with connect() as connection:
    def ask(text):
        connection.sendall(text.encode().decode("unicode_escape").encode())
        print(connection.recv(4096).decode(errors="replace").splitlines()[0], flush=True)
    ask(first)
    open(mark, "w").close()
    while os.path.exists(mark) and time.monotonic() < until:
        time.sleep(0.02)
    ask(second)
"""

# A parent with children, a pipe between them, a deleted file that stays open, a timer's worth of
# state: a counter that must go on from where it was.
SHELL = """
exec 3>/tmp/gone; echo kept >&3; rm /tmp/gone
count() { n=0; while :; do n=$((n+1)); echo $n; sleep 0.05; done; }
count | while read n; do echo $n > /tmp/n; done &
sleep 86400 & wait
"""


class Engine:
    """Sleeps and wakes containers of one node, round by round.

    Args:
        node: where.
    """

    def __init__(self, node: Node) -> None:
        self.node = node
        self.shims: list[int] = []

    def cycle(self, container_id: str, rounds: int = 1, asleep: str = "") -> list[Figures]:
        """Puts a container to sleep and wakes it; returns each round's figures."""
        result = self.driver(container_id, rounds, asleep)
        assert result.status == 0, result.text + result.stderr.decode()
        return [json.loads(line) for line in result.text.splitlines()]

    def driver(self, container_id: str, rounds: int, asleep: str = "") -> Result:
        """Runs criu_driver.py."""
        self.shims.append(self.shim_of(container_id))
        argv = [PYTHON, f"{PLACE}/criu_driver.py", container_id, str(rounds)]
        argv += [asleep] if asleep else []
        return self.node.exec(argv, env={"PYTHONPATH": PLACE}, check=False)

    def init_of(self, container_id: str) -> int:
        """The container's first process, as runc's state names it."""
        state = json.loads(self.node.read(f"/run/containerd/runc/k8s.io/{container_id}/state.json"))
        return int(state["init_process_pid"])

    def shim_of(self, container_id: str) -> int:
        """containerd's shim of the container's pod."""
        tasks = "/run/containerd/io.containerd.runtime.v2.task/k8s.io"
        sandbox = self.node.read(f"{tasks}/{container_id}/sandbox").decode().strip()
        pause = int(self.node.read(f"{tasks}/{sandbox}/init.pid"))
        stat = self.node.read(f"/proc/{pause}/stat").decode()
        return int(stat.rpartition(")")[2].split()[1])

    def close(self, containers: list[str]) -> None:
        """Ends what was restored, which containerd's shim is not the parent of, and wakes shims."""
        for container_id in containers:
            pid = str(self.init_of(container_id))
            self.node.exec(["kill", "-KILL", pid], check=False)
        for shim in set(self.shims):
            self.node.exec(["kill", "-CONT", str(shim)], check=False)


def copy_sources(node: Node) -> None:
    """Puts the tree's Python into the node; the node's own environment has what it imports."""
    place = node.path(PLACE)
    shutil.rmtree(place, ignore_errors=True)
    ignore = shutil.ignore_patterns("__pycache__", "*.so")
    for package in ("shim", "cri_proto"):
        shutil.copytree(recipe.REPOSITORY / package, place / package, ignore=ignore)
    shutil.copy(Path(__file__).with_name("criu_driver.py"), place)
    node.write(f"{PLACE}/client.py", CLIENT)


@pytest.fixture
def engine(node: Node, kubelet: Kubelet) -> Iterator[Engine]:
    """The engine on a node; what it restored ends with the test."""
    copy_sources(node)
    made = Engine(node)
    try:
        yield made
    finally:
        made.close([pod.container_id for pod in kubelet.pods])
        shutil.rmtree(node.path(PLACE))


def pod_of(kubelet: Kubelet, name: str, image: str, command: tuple[str, ...] = ()) -> Pod:
    """Starts a pod with one container."""
    return kubelet.run_pod(PodSpec(name, (ContainerSpec("main", image=image, command=command),)))


def wait_for(path: Path, there: bool = True) -> None:
    """Waits until a file is there, or is not."""
    until = time.monotonic() + DEADLINE_S
    while path.exists() != there:
        assert time.monotonic() < until, f"{path} {'is not there' if there else 'stays'}"
        time.sleep(POLL_S)


class Client:
    """A client with one connection, opened before a sleep and used again after it."""

    def __init__(self, node: Node, pod: Pod, port: int, first: str, second: str) -> None:
        self.node = node
        self.mark = f"{PLACE}/connected"
        argv = [PYTHON, f"{PLACE}/client.py", pod.ip, str(port), first, second, self.mark]
        self.daemon: Daemon = node.daemon("client", argv)
        self.daemon.start()
        wait_for(node.path(self.mark))

    def finish(self) -> list[str]:
        """Lets it ask again; returns its two answers."""
        self.node.path(self.mark).unlink()
        until = time.monotonic() + DEADLINE_S
        while self.daemon.is_running() and time.monotonic() < until:
            time.sleep(POLL_S)
        return self.daemon.log_tail().splitlines()[-2:]


def test_redis_keeps_its_connection_and_data_over_five_sleeps(
    node: Node, kubelet: Kubelet, engine: Engine
) -> None:
    pod = pod_of(kubelet, "redis", images.REDIS)
    client = Client(node, pod, 6379, r"SET a 41\r\n", r"INCR a\r\n")
    figures = engine.cycle(pod.container_id, rounds=5)
    assert len(figures) == 5
    assert all(one["dump"]["pages_written"] > 0 for one in figures)
    assert client.finish() == ["+OK", ":42"]


def test_nginx_keeps_its_connection(node: Node, kubelet: Kubelet, engine: Engine) -> None:
    # As root: where the machine lacks CAP_SYS_RESOURCE, the limits of another user's process
    # cannot be read, by CRIU either.
    pod = pod_of(kubelet, "nginx", images.NGINX, ("nginx", "-g", "user root;"))
    get = r"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    client = Client(node, pod, 80, get, get)
    engine.cycle(pod.container_id, rounds=2)
    assert client.finish() == ["HTTP/1.1 200 OK"] * 2


def test_python_workload_answers_after_a_sleep(
    node: Node, kubelet: Kubelet, engine: Engine
) -> None:
    pod = pod_of(kubelet, "python", images.PYTHON)
    before = engine.init_of(pod.container_id)
    engine.cycle(pod.container_id)
    assert engine.init_of(pod.container_id) != before
    client = Client(node, pod, 7000, r"\n", r"\n")
    assert all(client.finish())


def test_shell_with_children_pipes_and_a_deleted_file_goes_on(
    node: Node, kubelet: Kubelet, engine: Engine
) -> None:
    pod = pod_of(kubelet, "shell", images.BUSYBOX, ("sh", "-c", SHELL))
    root = node.path(f"/proc/{engine.init_of(pod.container_id)}/root")
    wait_for(root / "tmp/n")
    engine.cycle(pod.container_id, rounds=2)
    root = node.path(f"/proc/{engine.init_of(pod.container_id)}/root")
    seen = int((root / "tmp/n").read_text() or 0)
    until = time.monotonic() + DEADLINE_S
    while int((root / "tmp/n").read_text() or 0) <= seen:
        assert time.monotonic() < until, "the counter stands still"
        time.sleep(POLL_S)
    # Stopped in nanosleep, which returns EINTR unless it is made again.
    names = node.exec(["pgrep", "-x", "sleep", "--ns", str(engine.init_of(pod.container_id))])
    assert names.text, "the sleeping child has ended"
    deleted = node.path(f"/proc/{engine.init_of(pod.container_id)}/fd/3")
    assert str(deleted.readlink()).endswith("(deleted)")


def test_the_container_is_gone_while_it_sleeps_and_its_mounts_come_back(
    node: Node, kubelet: Kubelet, engine: Engine
) -> None:
    pod = pod_of(kubelet, "mounts", images.BUSYBOX, ("sleep", "86400"))
    init = engine.init_of(pod.container_id)
    # A file in a tmpfs that no image of CRIU's holds: it must come back by the mount alone.
    node.path(f"/proc/{init}/root/dev/shm/kept").write_text("yes")
    node.path(f"/proc/{init}/root/dev/kept").write_text("too")
    before = mount_table(node, init)
    engine.cycle(pod.container_id, rounds=3)
    after = engine.init_of(pod.container_id)
    assert mount_table(node, after) == before
    assert node.path(f"/proc/{after}/root/dev/shm/kept").read_text() == "yes"
    assert node.path(f"/proc/{after}/root/dev/kept").read_text() == "too"
    points = [line.split()[4] for line in node.read("/proc/1/mountinfo").decode().splitlines()]
    assert [one for one in points if "podferry-driver" in one] == ["/run/podferry-driver/mounts"]


def mount_table(node: Node, pid: int) -> list[tuple[str, str, str]]:
    """Point, options and file system of each mount of a process."""
    lines = [line.split() for line in node.read(f"/proc/{pid}/mountinfo").decode().splitlines()]
    return sorted((one[4], one[5], one[one.index("-") + 1]) for one in lines)
