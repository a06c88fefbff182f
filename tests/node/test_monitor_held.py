# SPDX-License-Identifier: Apache-2.0
"""A held container stands still until it runs on, or departs and ends with its status."""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.node.fix_monitor import eventually
from tests.node.fix_move import COUNT, DEPARTED, HELD, IMAGES, RUNNING, Mover
from tests.node.redis_client import Client
from tests.testbed import front
from tests.testbed.pods import ContainerSpec, PodSpec


@pytest.fixture
def counter(mover: Mover) -> str:
    """A container that counts aloud."""
    container = mover.shell("counter", COUNT)
    eventually(lambda: len(mover.lines(container)) > 2, "its first lines")
    return container


def goes_on(mover: Mover, container: str) -> None:
    """It counts, and has left nothing out and said nothing twice."""
    before = len(mover.lines(container))
    eventually(lambda: len(mover.lines(container)) > before + 1, "more lines")
    lines = [int(line) for line in mover.lines(container)]
    assert lines == list(range(len(lines)))


def begin(mover: Mover, *words: str) -> subprocess.Popen[bytes]:
    """The front, as containerd calls it, without waiting for its end."""
    argv = [front.BINARY, "--root", "/run/containerd/runc/k8s.io", *words]
    return subprocess.Popen(
        mover.node.inside.argv(argv), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


# ---- undo


@pytest.mark.parametrize("how", ["whole", "lazy"])
def test_what_was_held_runs_on_with_its_connections(
    mover: Mover, served: tuple[str, Client], how: str
) -> None:
    container, client = served
    tasks = mover.cgroup_procs(container)
    held = mover.must(HELD, "hold", container, how)
    assert mover.still(tasks)
    client.socket.sendall(b"INCR n\r\n")  # waits in the socket, which answers nothing yet
    client.count += 1
    running = mover.must(RUNNING, "resume", container)
    assert client.socket.recv(100) == b":%d\r\n" % client.count
    assert (running["init_pid"], running["placeholder_pid"]) == (held["init_pid"], 0)
    eventually(lambda: not mover.criu(container), "CRIU's end")
    client.ask()
    mover.must(RUNNING, "resume", container)  # may be asked again
    mover.must(HELD, "hold", container, how)  # and it may be held again
    mover.must(RUNNING, "resume", container)
    client.ask()


@pytest.mark.parametrize("how", ["whole", "lazy"])
def test_without_criu_it_stands_still_until_it_may_run(
    mover: Mover, served: tuple[str, Client], how: str
) -> None:
    container, client = served
    tasks = mover.cgroup_procs(container)
    mover.must(HELD, "hold", container, how)
    mover.kill(*mover.criu(container))
    eventually(lambda: not mover.criu(container), "CRIU's end")
    assert mover.still(tasks)
    assert mover.state_of(container) == HELD
    mover.must(RUNNING, "resume", container)
    client.ask()


# ---- commit


def resets_sent(mover: Mover, container: str) -> int:
    """How many TCP resets its network namespace has sent."""
    place = mover.runc_state(container)["config"]["namespaces"]
    net = next(one["path"] for one in place if one["type"] == "NEWNET")
    argv = ["nsenter", f"--net={net}", "cat", "/proc/net/snmp"]
    names, values = [
        line.split() for line in mover.node.exec(argv).text.splitlines() if "Tcp:" in line
    ]
    return int(values[names.index("OutRsts")])


@pytest.mark.parametrize("criu", ["alive", "dead"])
def test_a_departure_is_silent(mover: Mover, served: tuple[str, Client], criu: str) -> None:
    container, client = served
    tasks = mover.cgroup_procs(container)
    mover.must(HELD, "hold", container)
    if criu == "dead":
        mover.kill(*mover.criu(container))
        eventually(lambda: not mover.criu(container), "CRIU's end")
    before = resets_sent(mover, container)
    left = mover.must(DEPARTED, "depart", container)
    assert (left["init_pid"], mover.cgroup_procs(container)) == (0, {left["placeholder_pid"]})
    assert not any(mover.alive(pid) for pid in tasks)
    assert resets_sent(mover, container) == before
    client.socket.settimeout(0.5)
    with pytest.raises(TimeoutError):  # neither end nor reset
        client.socket.recv(1)
    assert not mover.node.path(f"{IMAGES}/{container}").exists()
    mover.must(DEPARTED, "depart", container)  # may be asked again
    assert mover.is_running(container)
    assert "not held" in mover.step("resume", container)["error"]


@pytest.mark.parametrize(("words", "code"), [((), 0), (("7",), 7)])
def test_the_monitor_ends_with_the_status_that_it_is_told(
    mover: Mover, counter: str, words: tuple[str, ...], code: int
) -> None:
    assert "neither departed" in mover.step("exit", counter)["error"]
    mover.must(HELD, "hold", counter)
    assert "neither departed" in mover.step("exit", counter)["error"]
    mover.must(DEPARTED, "depart", counter)
    assert "error" not in mover.step("exit", counter, *words)
    assert mover.ended(counter).exit_code == code
    assert not mover.directory(counter).exists()


@pytest.mark.parametrize("grace_s", [20, 0])
def test_a_stop_ends_a_departed_one_with_the_agreed_status(
    mover: Mover, counter: str, grace_s: int
) -> None:
    mover.must(HELD, "hold", counter)
    mover.must(DEPARTED, "depart", counter, "5")
    mover.cri.stop_container(counter, grace_s)
    assert mover.ended(counter).exit_code == 5


def test_verbs_on_a_departed_one(mover: Mover, counter: str) -> None:
    mover.must(HELD, "hold", counter)
    mover.must(DEPARTED, "depart", counter)
    assert json.loads(mover.oci("state", counter).text)["status"] == "running"
    assert json.loads(mover.oci("ps", "--format", "json", counter).text)
    failed = mover.oci("exec", counter, "true", check=False)
    assert failed.status == 1
    assert b"on another node" in failed.stderr
    assert mover.oci("delete", counter, check=False).status == 1
    for verb in ("hold", "claim", "unclaim", "prepare", "stage", "go", "drop"):
        assert "error" in mover.step(verb, counter)
    assert mover.state_of(counter) == DEPARTED
    mover.oci("delete", "--force", counter)
    assert mover.ended(counter).exit_code == 0


# ---- the verbs while it is held


def test_state_and_ps_pass_and_exec_and_signals_wait(mover: Mover) -> None:
    polite = mover.shell("polite", "trap 'exit 7' TERM; while :; do sleep 0.1; done")
    mover.must(HELD, "hold", polite)
    assert mover.runc_state(polite)["init_process_pid"] in mover.cgroup_procs(polite)
    assert json.loads(mover.oci("ps", "--format", "json", polite).text)
    assert mover.oci("state", polite).status == 0
    assert mover.oci("delete", polite, check=False).status == 1
    for verb in ("hold", "claim", "unclaim", "prepare", "stage", "go", "drop"):
        assert "error" in mover.step(verb, polite)
    waits = begin(mover, "exec", polite, "echo", "here")
    with pytest.raises(subprocess.TimeoutExpired):
        waits.wait(1)
    mover.must(RUNNING, "resume", polite)
    assert waits.communicate(timeout=60)[0] == b"here\n"
    mover.must(HELD, "hold", polite)
    waits = begin(mover, "kill", polite, "TERM")
    with pytest.raises(subprocess.TimeoutExpired):
        waits.wait(1)
    mover.must(RUNNING, "resume", polite)
    assert waits.wait(60) == 0
    assert mover.ended(polite).exit_code == 7


def test_an_exec_that_waited_is_told_that_the_container_has_left(
    mover: Mover, counter: str
) -> None:
    mover.must(HELD, "hold", counter)
    waits = begin(mover, "exec", counter, "true")
    with pytest.raises(subprocess.TimeoutExpired):
        waits.wait(1)
    mover.must(DEPARTED, "depart", counter)
    assert b"on another node" in waits.communicate(timeout=60)[1]


@pytest.mark.parametrize("words", [("kill", "KILL"), ("delete", "--force")])
def test_a_held_one_can_be_ended(mover: Mover, counter: str, words: tuple[str, str]) -> None:
    tasks = mover.cgroup_procs(counter)
    mover.must(HELD, "hold", counter)
    (criu,) = mover.criu(counter)
    verb, how = words
    mover.oci(verb, *((how, counter) if verb == "delete" else (counter, how)))
    assert mover.ended(counter).exit_code == 137
    assert not any(mover.alive(pid) for pid in {*tasks, criu})
    assert not mover.node.path(f"{IMAGES}/{counter}").exists()


# ---- who dies


def test_a_monitor_killed_while_it_holds_takes_all_with_it(
    mover: Mover, served: tuple[str, Client]
) -> None:
    container, client = served
    tasks = mover.cgroup_procs(container)
    held = mover.must(HELD, "hold", container)
    (criu,) = mover.criu(container)
    mover.kill(held["monitor_pid"])
    assert mover.ended(container).exit_code == 137
    for pid in {*tasks, criu, held["placeholder_pid"]}:
        eventually(lambda pid=pid: not mover.alive(pid), f"the end of {pid}")
    client.socket.settimeout(0.5)
    with pytest.raises(TimeoutError):  # its sockets were in repair mode to the end
        client.socket.recv(1)
    assert not mover.directory(container).exists()


@pytest.mark.parametrize("how", ["restart", "kill"])
def test_held_and_departed_outlive_containerd(mover: Mover, counter: str, how: str) -> None:
    mover.must(HELD, "hold", counter)
    again(mover, how)
    assert (mover.is_running(counter), mover.state_of(counter)) == (True, HELD)
    mover.must(RUNNING, "resume", counter)
    goes_on(mover, counter)
    mover.must(HELD, "hold", counter)
    mover.must(DEPARTED, "depart", counter)
    again(mover, how)
    assert (mover.is_running(counter), mover.state_of(counter)) == (True, DEPARTED)
    mover.step("exit", counter, "3")
    assert mover.ended(counter).exit_code == 3


def again(mover: Mover, how: str) -> None:
    """Another containerd."""
    if how == "restart":
        mover.node.containerd.restart()
    else:
        mover.node.containerd.kill()
        mover.node.containerd.start()
    mover.redial()


def test_the_containers_of_a_pod_are_held_and_depart_one_by_one(mover: Mover) -> None:
    spec = PodSpec("two", tuple(
        ContainerSpec(name, command=("sh", "-c", COUNT)) for name in ("one", "other")
    ))  # fmt: skip
    one, other = mover.run_pod(spec).containers.values()
    for container in (one, other):
        mover.must(HELD, "hold", container)
    mover.must(DEPARTED, "depart", one)
    assert mover.state_of(other) == HELD
    mover.must(RUNNING, "resume", other)
    mover.step("exit", one)
    assert mover.ended(one).exit_code == 0
    assert mover.is_running(other)
