# SPDX-License-Identifier: Apache-2.0
"""Kills and restarts around a monitored container: it runs on, sleeps on or ends, never twice."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator

import pytest

from tests.compare import assert_in_order
from tests.node.fix_monitor import (
    ASLEEP,
    PYTHON,
    RUNNING,
    SOURCES,
    Watched,
    eventually,
)
from tests.node.redis_client import Client
from tests.testbed import images

COUNT = "i=0; while :; do echo $i; i=$((i+1)); sleep 0.2; done"
IMAGES = "/run/podferry-driver/images"


def counting(watched: Watched) -> str:
    container = watched.shell("counter", COUNT)
    eventually(lambda: len(watched.lines(container)) > 2, "its first lines")
    return container


def kill(watched: Watched, *pids: int) -> None:
    watched.node.exec(["kill", "-KILL", *map(str, pids)])


def shim_of(watched: Watched, container: str) -> int:
    monitor = watched.state(container)["monitor_pid"]
    return int(watched.node.read(f"/proc/{monitor}/stat").rpartition(b")")[2].split()[1])


# ---- the monitor


def test_a_killed_monitor_takes_the_container_with_it(watched: Watched) -> None:
    container = counting(watched)
    state = watched.state(container)
    kill(watched, state["monitor_pid"])
    assert watched.ended(container).exit_code == 137
    eventually(lambda: not watched.alive(state["init_pid"]), "the end of the real init")
    assert not watched.directory(container).exists()
    # kubelet would start the next attempt now: it must be alone.
    pod = watched.pod_of(container)
    second = watched.start_container(pod, pod.spec.containers[0])
    assert watched.is_running(second)


def test_a_killed_monitor_of_a_sleeper_leaves_nothing_that_could_wake(watched: Watched) -> None:
    container = counting(watched)
    watched.sleep(container)
    state = watched.state(container)
    kill(watched, state["monitor_pid"])
    assert watched.ended(container).exit_code == 137
    eventually(lambda: not watched.alive(state["placeholder_pid"]), "the placeholder's end")
    eventually(lambda: not watched.directory(container).exists(), "the state directory's end")
    assert not watched.node.path(f"{IMAGES}/{container}").exists()


def test_a_stopped_monitor_does_not_stop_delete_force(watched: Watched) -> None:
    container = counting(watched)
    state = watched.state(container)
    watched.node.exec(["kill", "-STOP", str(state["monitor_pid"])])
    watched.oci("delete", "--force", container)
    assert not watched.alive(state["init_pid"])
    assert watched.ended(container).exit_code == 137


# ---- containerd and its shim


@pytest.mark.parametrize("how", ["restart", "kill"])
def test_a_sleeper_outlives_containerd(watched: Watched, how: str) -> None:
    container = counting(watched)
    watched.sleep(container)
    before = watched.status(container)
    if how == "restart":
        watched.node.containerd.restart()
    else:
        watched.node.containerd.kill()
        watched.node.containerd.start()
    watched.redial()
    assert watched.status(container) == before
    state = watched.state(container)
    assert (state["state"], state["wakes"]) == (ASLEEP, 0)
    written = len(watched.lines(container))
    watched.wake(container)
    eventually(lambda: len(watched.lines(container)) > written, "lines after the wake")
    done = watched.exec(watched.pod_of(container), ["echo", "here"])
    assert done.stdout == b"here\n"


def test_a_running_container_outlives_containerd(watched: Watched) -> None:
    container = counting(watched)
    monitor = watched.state(container)["monitor_pid"]
    watched.node.containerd.restart()
    watched.redial()
    assert watched.is_running(container)
    assert watched.state(container)["monitor_pid"] == monitor
    watched.sleep(container)
    watched.wake(container)


def test_a_sleeper_ends_with_its_shim(watched: Watched) -> None:
    # containerd asks only for the sandbox's task to be deleted then: nobody would tell the monitor.
    container = counting(watched)
    watched.sleep(container)
    state = watched.state(container)
    kill(watched, shim_of(watched, container))
    for key in ("monitor_pid", "placeholder_pid"):
        pid = state[key]
        eventually(lambda pid=pid: not watched.alive(pid), f"the end of {key}")
    # As under bare runc, CRI learns of it when containerd starts the next time, and nobody asks
    # for the container itself to be deleted.
    watched.oci("delete", "--force", container)
    watched.node.containerd.restart()
    watched.redial()
    assert not watched.directory(container).exists()
    assert not watched.node.path(f"{IMAGES}/{container}").exists()


# ---- CRIU


@pytest.fixture
def redis(watched: Watched) -> Iterator[tuple[str, Client]]:
    """A redis and a client that is connected."""
    container = watched.start("redis", image=images.REDIS)
    ip = watched.pod_of(container).ip

    def answers() -> bool:
        return watched.node.exec(["nc", "-z", ip, "6379"], check=False).status == 0

    eventually(answers, "redis")
    client = Client(watched, ip)
    try:
        client.ask()
        yield container, client
    finally:
        client.socket.close()


def kill_criu_at(watched: Watched, container: str, seen: str) -> subprocess.Popen[bytes]:
    """Begins a sleep, kills CRIU as soon as its log shows ``seen``, gives the driver."""
    log = f"{IMAGES}/{container}/dump.log"
    watcher = (
        f"for p in $(seq 20000); do if grep -qs '{seen}' {log}; then "
        "pkill -KILL -x criu; exit 0; fi; done; echo not seen; exit 1"
    )
    watching = subprocess.Popen(watched.node.inside.argv(["sh", "-c", watcher]))
    env = {"PYTHONPATH": SOURCES, "PODFERRY_TEST_LOG_LEVEL": "4"}
    argv = watched.node.inside.argv(
        [PYTHON, f"{SOURCES}/monitor_driver.py", "sleep", container], env
    )
    driver = subprocess.Popen(argv, stdout=subprocess.PIPE)
    assert watching.wait(60) == 0
    return driver


@pytest.mark.parametrize("seen", ["Seized task", "Dumping opened files", "Dump private"])
def test_a_criu_killed_in_the_dump_leaves_the_container_running(
    watched: Watched, redis: tuple[str, Client], seen: str
) -> None:
    container, client = redis
    driver = kill_criu_at(watched, container, seen)
    said, _ = driver.communicate(timeout=60)
    answer = json.loads(said)
    if "error" not in answer:  # CRIU was quicker than the kill; nothing holds packets here
        watched.wake(container)
    client.ask()  # neither frozen, nor reset, nor in repair mode
    assert watched.is_running(container)
    if "error" in answer:
        assert watched.state(container)["state"] == RUNNING
        assert watched.state(container)["placeholder_pid"] == 0
    watched.sleep(container)
    watched.wake(container)
    client.ask()


def test_an_established_connection_outlives_the_sleep(
    watched: Watched, redis: tuple[str, Client]
) -> None:
    container, client = redis
    watched.sleep(container)
    watched.wake(container)
    client.ask()


@pytest.fixture
def mortal_criu(watched: Watched) -> Iterator[Callable[[str], None]]:
    """A CRIU that is killed so many seconds after its start; "" lets it live."""
    delay, conf, wrapper = "/run/criu-dies-after", "/etc/podferry/runtime.conf", "/run/mortal-criu"
    # The killer is nobody's child that waits, and does not hold CRIU's channel open.
    script = f"""#!/bin/sh
if [ -s {delay} ]; then ( ( sleep $(cat {delay}); kill -KILL $$ ) 3>&- 2>&- & ); fi
exec criu "$@"
"""
    watched.node.write(wrapper, script, 0o755)
    watched.node.write(conf, f"criu {wrapper}\n")
    try:
        yield lambda seconds: watched.node.write(delay, seconds)
    finally:
        for path in (conf, delay):
            watched.node.path(path).unlink(missing_ok=True)


def test_a_criu_killed_in_the_wake_leaves_the_container_asleep(
    watched: Watched, mortal_criu: Callable[[str], None]
) -> None:
    container = counting(watched)
    failures = 0
    for seconds in ("0", "0.004", "0.008", "0.012", "0.016", "0.02"):
        mortal_criu("")
        watched.sleep(container)
        mortal_criu(seconds)
        failed = "error" in watched.drive("wake", container)
        assert watched.is_running(container)
        state = watched.state(container)
        if failed:
            failures += 1
            assert (state["state"], state["init_pid"]) == (ASLEEP, 0)
            alone = {state["placeholder_pid"]}
            eventually(
                lambda alone=alone: watched.cgroup_procs(container) == alone,
                "nothing else in the cgroup",
            )
            mortal_criu("")
            watched.wake(container)
        assert watched.state(container)["state"] == RUNNING
    assert failures
    lines = [int(line) for line in watched.lines(container)]
    assert_in_order(lines, len(lines))


def test_images_that_cannot_be_read_leave_it_asleep_and_exec_says_why(watched: Watched) -> None:
    container = counting(watched)
    watched.sleep(container)
    images_dir = watched.node.path(f"{IMAGES}/{container}")
    aside = images_dir.with_name("aside")
    images_dir.rename(aside)
    assert "CRIU" in watched.drive("wake", container)["error"]
    failed = watched.oci("exec", container, "true", check=False)
    assert failed.status == 1
    assert b"CRIU" in failed.stderr
    assert watched.is_running(container)
    shutil.rmtree(images_dir, ignore_errors=True)
    aside.rename(images_dir)
    watched.wake(container)


# ---- who speaks to the socket


def test_nonsense_on_the_control_socket_only_loses_the_connection(watched: Watched) -> None:
    container = counting(watched)
    for data in (b"", b"x", b"PFM1" + bytes(20), b"PFM1\x01\x00\x04\x00" + bytes(16), bytes(4096)):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as one:
            handle = os.open(watched.directory(container), os.O_PATH)
            try:
                one.connect(f"/proc/self/fd/{handle}/control")
            finally:
                os.close(handle)
            one.settimeout(10)
            if data:
                one.send(data)
                assert one.recv(100)[:4] in (b"", b"PFM1")
    assert watched.state(container)["state"] == RUNNING
