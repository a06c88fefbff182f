# SPDX-License-Identifier: Apache-2.0
"""`podferry explain` and CRIU agree on what cannot sleep: programs that do the forbidden thing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from shim.core import criu_errors
from tests.node.test_checkpoint_engine import PLACE, PYTHON, Engine, engine, wait_for
from tests.testbed import images
from tests.testbed.kubelet import Kubelet, Pod
from tests.testbed.node import Node
from tests.testbed.pods import ContainerSpec, PodSpec

__all__ = ["engine"]

START = "import ctypes, os, socket, time\nlibc = ctypes.CDLL(None)\n"
STAY = "\nopen('/tmp/ready', 'w').close()\nwhile True: time.sleep(1000)\n"
# io_uring_setup, userfaultfd, PTRACE_SEIZE, CLONE_NEWNET: asm/unistd_64.h and friends.
PROGRAMS = {
    "io_uring": "assert libc.syscall(425, 4, (ctypes.c_char * 120)()) >= 0",
    "mptcp": "s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262); s.listen()",
    "socket_kind": "s = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)",
    "deleted_file": "f = open('/tmp/f', 'wb'); f.write(bytes(70 << 20)); f.flush(); "
    "os.unlink('/tmp/f')",
    "anonymous_file": "assert libc.syscall(323, 1) >= 0",
    "traced": "child = os.fork()\nif child == 0:\n  while True: time.sleep(1)\n"
    "assert libc.ptrace(0x4206, child, 0, 0) == 0",
}


def run(kubelet: Kubelet, engine: Engine, name: str, program: str) -> Pod:
    """Starts a pod with a Python program and waits until it has done what it is to do."""
    command = ("python3", "-c", START + program + STAY)
    container = ContainerSpec("main", image=images.PYTHON, command=command)
    pod = kubelet.run_pod(PodSpec(name, (container,)))
    root = f"/proc/{engine.init_of(pod.container_id)}/root"
    wait_for(engine.node.path(f"{root}/tmp/ready"))
    return pod


def explain(node: Node, pod: str) -> tuple[int, dict[str, Any]]:
    """Runs `podferry explain`; returns its exit status and its JSON."""
    argv = [PYTHON, "-m", "shim.cli.main", "explain", pod, "--output", "json"]
    result = node.exec(argv, env={"PYTHONPATH": PLACE}, check=False)
    return result.status, json.loads(result.text)


@pytest.mark.parametrize("cause", PROGRAMS)
def test_explain_names_what_criu_then_fails_with(
    node: Node, kubelet: Kubelet, engine: Engine, cause: str
) -> None:
    pod = run(kubelet, engine, cause.replace("_", "-"), PROGRAMS[cause])
    status, said = explain(node, pod.spec.name)
    assert status == 3
    assert {one["cause"] for one in said["containers"][0]["findings"]} == {cause}
    before = engine.init_of(pod.container_id)
    result = engine.driver(pod.container_id, rounds=1)
    assert result.status == 1, result.text
    assert criu_errors.diagnose(json.loads(result.text)["log"]).cause.name == cause
    # A dump that fails leaves the processes as they were.
    assert engine.init_of(pod.container_id) == before
    assert node.path(f"/proc/{before}/exe").is_symlink()


def test_a_sound_pod_can_sleep_and_nothing_is_stopped(
    node: Node, kubelet: Kubelet, engine: Engine
) -> None:
    container = ContainerSpec("main", image=images.REDIS)
    kubelet.run_pod(PodSpec("sound", (container,)))
    status, said = explain(node, "default/sound")
    assert status == 0
    assert said["can_sleep"]
    assert said["can_move"]
    assert said["containers"][0]["findings"] == []
    assert said["expected_freeze_ms"] > 0


def test_system_v_memory_survives_a_sleep(node: Node, kubelet: Kubelet, engine: Engine) -> None:
    program = """
segment = libc.shmget(4711, 1 << 20, 0o1600)
libc.shmat.restype = ctypes.c_void_p
memory = libc.shmat(segment, None, 0)
ctypes.memmove(memory, b'kept', 4)
open('/tmp/ready', 'w').close()
while os.path.exists('/tmp/ready'): time.sleep(0.02)
open('/tmp/said', 'wb').write(ctypes.string_at(memory, 4))
"""
    pod = run(kubelet, engine, "system-v", program)
    assert explain(node, pod.spec.name)[0] == 0
    engine.cycle(pod.container_id, rounds=2)
    root = node.path(f"/proc/{engine.init_of(pod.container_id)}/root")
    (root / "tmp/ready").unlink()
    wait_for(root / "tmp/said")
    assert (root / "tmp/said").read_bytes() == b"kept"
