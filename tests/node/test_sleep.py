# SPDX-License-Identifier: Apache-2.0
"""Pods that sleep and wake: by command, by a packet, by exec; over kills, refusals and damage."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cri_proto import runtime_v1_pb2 as cri
from tests.testbed import front, images, service
from tests.testbed.kubelet import Kubelet, Pod
from tests.testbed.node import Node
from tests.testbed.pods import ContainerSpec, PodSpec
from tests.testbed.process import POLL_S, Result
from tests.testbed.service import Shim

PODFERRY = "/opt/podferry/bin/podferry"
DEADLINE_S = 30.0
MEMORY_IMAGES = "/run/podferry/images"
DISK_IMAGES = "/var/lib/podferry/images"
ON_DISK = f'[sleep]\nimages_dir = "{DISK_IMAGES}"\n'

# One connection that lives through every sleep, and a new one each time; prints the answers.
CLIENT = """
import socket, subprocess, sys
address, rounds = sys.argv[1], int(sys.argv[2])
old = socket.create_connection((address, 6379), timeout=20)
def ask(connection):
    connection.sendall(b"INCR n\\r\\n")
    return connection.recv(100).decode().strip()
answers = [ask(old)]
for number in range(rounds):
    subprocess.run(["/opt/podferry/bin/podferry", "sleep", "redis"], check=True)
    if number % 2:
        answers.append(ask(old))
    else:
        with socket.create_connection((address, 6379), timeout=20) as fresh:
            answers.append(ask(fresh))
print(" ".join(answers))
"""


class Sleepers:
    """kubelet on podferry's socket of a node with monitors, and podferry's commands there."""

    def __init__(self, node: Node, shim: Shim) -> None:
        self.node = node
        self.shim = shim
        self.kubelet = Kubelet(node, service.SOCKET)

    def redis(self) -> Pod:
        """Starts a redis and waits until it answers."""
        pod = self.kubelet.run_pod(PodSpec("redis", (ContainerSpec("main", images.REDIS),)))
        self.eventually(lambda: self.ask(pod, "PING") == "+PONG")
        return pod

    def ask(self, pod: Pod, command: str) -> str:
        """A redis's answer, over a connection of its own; "" if there is none."""
        script = f"printf '{command}\\r\\nQUIT\\r\\n' | timeout 20 nc -w 20 {pod.ip} 6379 | head -1"
        return self.node.exec(["sh", "-c", script], check=False).text.strip()

    def command(self, *words: str) -> Result:
        """Runs podferry."""
        return self.node.exec([PODFERRY, *words], check=False)

    def command_json(self, *words: str) -> Any:
        """Runs podferry, which must succeed; its JSON."""
        result = self.command(*words, "--output", "json")
        assert result.status == 0, result.stderr.decode()
        return json.loads(result.text)

    def sleep(self, pod: Pod) -> dict[str, Any]:
        """Puts a pod to sleep; must succeed."""
        answer: dict[str, Any] = self.command_json("sleep", pod.spec.name)
        return answer

    def state(self, pod: Pod) -> dict[str, Any]:
        """What `podferry pods` says of a pod."""
        listed = self.command_json("pods")
        found: dict[str, Any] = next(one for one in listed if one["uid"] == pod.spec.uid)
        return found

    def left(self) -> list[str]:
        """What a sleep would leave behind."""
        places = [MEMORY_IMAGES, DISK_IMAGES, "/run/podferry/mounts", "/var/lib/podferry/sleep"]
        places.append("/sys/fs/bpf/podferry/hold")
        found = [
            str(one)
            for place in places
            if self.node.path(place).is_dir()
            for one in self.node.path(place).iterdir()
        ]
        links = self.node.exec(["ip", "-o", "link"]).text.splitlines()
        return found + [line for line in links if "pfh" in line.split(":")[1]]

    def processes(self, name: str) -> str:
        """Pids of the node's processes of a name."""
        return self.node.exec(["pgrep", "-x", name], check=False).text

    def eventually(self, holds: Callable[[], object]) -> None:
        """Waits until something holds."""
        until = time.monotonic() + DEADLINE_S
        while not holds():
            assert time.monotonic() < until, self.node.logs().get("podferry")
            time.sleep(POLL_S)


@pytest.fixture(scope="module")
def front_node(node_pair: list[Node]) -> Iterator[Node]:
    """A node whose containers have monitors."""
    service.install(node_pair[0])
    with front.installed(node_pair[0]):
        yield node_pair[0]


@pytest.fixture
def settings() -> str:
    """The text of the node's settings; tests replace it."""
    return ""


@pytest.fixture
def sleepers(two_nodes: tuple[Node, Node], front_node: Node, settings: str) -> Iterator[Sleepers]:
    """podferry and kubelet; pods end with the test and must leave nothing."""
    with Shim(front_node, settings) as shim:
        made = Sleepers(front_node, shim)
        try:
            yield made
        finally:
            made.kubelet.close()
        made.eventually(lambda: not made.left())


def test_a_sleep_frees_memory_and_keeps_data_and_status(sleepers: Sleepers) -> None:
    pod = sleepers.redis()
    assert sleepers.ask(pod, "SET a kept") == "+OK"
    assert sleepers.state(pod)["state"] == "running"
    slept = sleepers.sleep(pod)
    assert slept["containers"][0]["frozen_ms"] > 0
    assert sleepers.processes("redis-server") == ""
    assert sleepers.state(pod)["state"] == "asleep"
    assert sleepers.state(pod)["memory_bytes"] == "0"
    status = sleepers.kubelet.cri.container_status(pod.container_id).status
    assert status.state == cri.CONTAINER_RUNNING
    assert sleepers.node.path(MEMORY_IMAGES).stat().st_mode & 0o777 == 0o700
    assert sleepers.command("wake", "redis").status == 0
    assert sleepers.state(pod)["state"] == "running"
    assert sleepers.ask(pod, "GET a") != ""
    assert sleepers.ask(pod, "STRLEN a") == ":4"
    assert sleepers.left() == []


def test_packets_wake_and_no_connection_is_lost(sleepers: Sleepers) -> None:
    pod = sleepers.redis()
    sleepers.node.write("/var/tmp/client.py", CLIENT)
    said = sleepers.node.exec(["python3", "/var/tmp/client.py", pod.ip, "6"]).text
    assert said.splitlines()[-1] == " ".join(f":{number}" for number in range(1, 8))
    sleepers.eventually(lambda: sleepers.state(pod)["wakes"] == 6)
    assert sleepers.state(pod)["last_wake_cause"] == "packet"


def test_a_sleeper_keeps_breakpoints_ready_and_lets_go_of_them(sleepers: Sleepers) -> None:
    look = "for pid in $(pgrep podferry-monito); do ls -l /proc/$pid/fd; done | grep -c perf_event"

    def events() -> int:
        return int(sleepers.node.exec(["sh", "-c", look], check=False).text)

    pod = sleepers.redis()
    assert events() == 0
    sleepers.sleep(pod)
    sleepers.eventually(lambda: events() == 1)
    assert sleepers.ask(pod, "PING") == "+PONG"
    sleepers.eventually(lambda: events() == 0)


def test_exec_wakes(sleepers: Sleepers) -> None:
    pod = sleepers.redis()
    sleepers.sleep(pod)
    assert sleepers.kubelet.exec(pod, ["echo", "there"]).stdout == b"there\n"
    assert sleepers.state(pod)["state"] == "running"
    assert sleepers.state(pod)["last_wake_cause"] == "ExecSync"


def test_a_killed_service_is_not_needed_for_a_wake(sleepers: Sleepers) -> None:
    pod = sleepers.redis()
    assert sleepers.ask(pod, "SET a 41") == "+OK"
    sleepers.sleep(pod)
    sleepers.shim.kill()
    assert sleepers.ask(pod, "INCR a") == ":42"
    sleepers.shim.start()
    sleepers.eventually(lambda: sleepers.left() == [])
    assert sleepers.state(pod)["state"] == "running"


def test_a_service_that_starts_knows_who_sleeps(sleepers: Sleepers) -> None:
    pod = sleepers.redis()
    sleepers.sleep(pod)
    sleepers.shim.kill()
    sleepers.shim.start()
    sleepers.eventually(lambda: sleepers.state(pod)["state"] == "asleep")
    assert sleepers.command("wake", "redis").status == 0
    assert sleepers.ask(pod, "PING") == "+PONG"


def test_what_cannot_sleep_is_refused_and_runs_on(sleepers: Sleepers) -> None:
    program = "import ctypes,time; ctypes.CDLL(None).syscall(425, 4, (ctypes.c_char * 120)())"
    command = ("python3", "-c", program + "; open('/tmp/up', 'w'); time.sleep(86400)")
    spec = PodSpec("uring", (ContainerSpec("main", images.PYTHON, command),))
    pod = sleepers.kubelet.run_pod(spec)
    sleepers.eventually(lambda: sleepers.kubelet.exec(pod, ["ls", "/tmp/up"]).exit_code == 0)
    result = sleepers.command("sleep", "uring")
    assert result.status == 1
    assert b"io_uring" in result.stderr
    assert b"UV_USE_IO_URING" in result.stderr, "it says what to do"
    assert sleepers.state(pod)["state"] == "running"
    assert sleepers.left() == []


def test_a_dump_that_fails_leaves_the_pod_running_and_says_why(sleepers: Sleepers) -> None:
    # The preflight cannot know whether CRIU finds this watch again; CRIU does not.
    program = "import ctypes,time; c = ctypes.CDLL(None); c.inotify_add_watch(c.inotify_init1(0), "
    command = ("python3", "-c", program + "b'/tmp', 2); open('/tmp/up', 'w'); time.sleep(86400)")
    spec = PodSpec("watch", (ContainerSpec("main", images.PYTHON, command),))
    pod = sleepers.kubelet.run_pod(spec)
    sleepers.eventually(lambda: sleepers.kubelet.exec(pod, ["ls", "/tmp/up"]).exit_code == 0)
    result = sleepers.command("sleep", "watch")
    assert result.status == 1
    assert b"inotify" in result.stderr
    assert sleepers.kubelet.exec(pod, ["echo", "on"]).stdout == b"on\n"
    assert sleepers.left() == []


def test_two_containers_sleep_and_wake_together(sleepers: Sleepers) -> None:
    spec = PodSpec(
        "redis",
        (ContainerSpec("main", images.REDIS), ContainerSpec("other", command=("sleep", "86400"))),
    )
    pod = sleepers.kubelet.run_pod(spec)
    sleepers.eventually(lambda: sleepers.ask(pod, "SET a 41") == "+OK")
    assert len(sleepers.sleep(pod)["containers"]) == 2
    assert sleepers.processes("redis-server") == ""
    assert sleepers.processes("sleep") == ""
    assert sleepers.ask(pod, "INCR a") == ":42"
    sleepers.eventually(lambda: sleepers.processes("sleep"))
    sleepers.eventually(lambda: sleepers.state(pod)["state"] == "running")


def test_a_pod_deleted_asleep_leaves_nothing(sleepers: Sleepers) -> None:
    pod = sleepers.redis()
    sleepers.sleep(pod)
    sleepers.kubelet.delete_pod(pod, grace_s=0)
    sleepers.eventually(lambda: sleepers.left() == [])


@pytest.mark.parametrize("settings", ['[sleep]\nimages_dir = "/run/small/images"\n'])
def test_without_room_a_sleep_is_refused(sleepers: Sleepers) -> None:
    pod = sleepers.redis()
    sleepers.node.exec(["mkdir", "-p", "/run/small"])
    sleepers.node.exec(["mount", "-t", "tmpfs", "-o", "size=2m", "small", "/run/small"])
    try:
        result = sleepers.command("sleep", "redis")
        assert result.status == 1
        assert b"no room" in result.stderr
        assert b"MiB free" in result.stderr
        assert sleepers.ask(pod, "PING") == "+PONG"
    finally:
        sleepers.node.exec(["umount", "/run/small"])


@pytest.mark.parametrize("settings", [ON_DISK])
def test_images_on_a_disk_wake_by_a_packet(sleepers: Sleepers) -> None:
    pod = sleepers.redis()
    assert sleepers.ask(pod, "SET a 41") == "+OK"
    sleepers.sleep(pod)
    assert list(sleepers.node.path(DISK_IMAGES).glob("*/pages-1.img"))
    assert sleepers.ask(pod, "INCR a") == ":42"


@pytest.mark.parametrize("settings", [ON_DISK])
@pytest.mark.parametrize("victim", ["pages-1.img", "core-1.img", "podferry-manifest.json"])
def test_a_damaged_image_is_found_and_the_container_ends(sleepers: Sleepers, victim: str) -> None:
    pod = sleepers.redis()
    sleepers.sleep(pod)
    (path,) = sleepers.node.path(DISK_IMAGES).glob(f"*/{victim}")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    result = sleepers.command("wake", "redis")
    assert result.status == 1
    assert b"damaged" in result.stderr or b"manifest" in result.stderr
    status = sleepers.kubelet.cri.container_status(pod.container_id).status
    assert status.state == cri.CONTAINER_EXITED


@pytest.mark.parametrize(
    "sign",
    [
        "/var/lib/podferry/sleep/*.json",
        "/run/podferry/mounts/*/etc",
        "/sys/fs/bpf/podferry/hold/*",
        "/run/podferry/images/*/dump.log",
        "/run/podferry/images/*/inventory.img",
        "/run/podferry/images/*/podferry-manifest.json",
    ],
)
def test_killed_in_the_middle_of_a_sleep_the_next_start_makes_it_whole(
    sleepers: Sleepers, sign: str
) -> None:
    pod = sleepers.redis()
    assert sleepers.ask(pod, "SET a 41") == "+OK"
    asking = sleepers.node.daemon("asking", [PODFERRY, "sleep", "redis"])
    asking.start()
    root = sleepers.node.path("/")
    until = time.monotonic() + DEADLINE_S
    while not any(root.glob(sign.lstrip("/"))):  # a spin: the moment is short
        assert time.monotonic() < until, f"{sign} does not appear"
    sleepers.shim.kill()
    sleepers.eventually(lambda: not asking.is_running())
    sleepers.shim.start()
    # It may sleep, wholly, or run; either way its packets reach it and its data is there.
    assert sleepers.ask(pod, "INCR a") == ":42"
    sleepers.eventually(lambda: sleepers.state(pod)["state"] == "running")
    sleepers.eventually(lambda: sleepers.left() == [])
