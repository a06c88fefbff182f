# SPDX-License-Identifier: Apache-2.0
"""`podferry explain` and CRIU agree on what cannot sleep: programs that do the forbidden thing."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from cri_proto import runtime_v1_pb2 as cri
from shim.core import criu_errors
from tests.node.test_checkpoint_engine import PLACE, PYTHON, Engine, engine, wait_for
from tests.testbed import images
from tests.testbed.kubelet import Kubelet, Pod
from tests.testbed.node import Node
from tests.testbed.pods import ContainerSpec, PodSpec, container_config, sandbox_config

__all__ = ["engine"]

Alter = Callable[[cri.PodSandboxConfig, cri.ContainerConfig], None]
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


def share_pids(sandbox: cri.PodSandboxConfig, container: cri.ContainerConfig) -> None:
    """shareProcessNamespace: true."""
    for one in (sandbox, container):
        one.linux.security_context.namespace_options.pid = cri.NamespaceMode.POD


def give_terminal(sandbox: cri.PodSandboxConfig, container: cri.ContainerConfig) -> None:
    """tty: true."""
    container.tty = True


@pytest.mark.parametrize(
    ("cause", "alter"),
    [
        ("shared_pid_namespace", share_pids),
        ("terminal", give_terminal),
    ],
)
def test_what_a_pods_spec_asks_for_can_stand_in_the_way_too(
    node: Node, kubelet: Kubelet, engine: Engine, cause: str, alter: Alter
) -> None:
    one = ContainerSpec("main", command=("sh", "-c", "while :; do sleep 1; done"))
    spec = PodSpec(cause.replace("_", "-"), ())
    sandbox, container = sandbox_config(spec), container_config(spec, one)
    alter(sandbox, container)
    container_id = start_altered(kubelet, spec, sandbox, container)
    status, said = explain(node, spec.name)
    assert status == 3
    assert {finding["cause"] for finding in said["containers"][0]["findings"]} == {cause}
    before = engine.init_of(container_id)
    if cause != "terminal":  # which the monitor refuses before CRIU is asked
        result = engine.driver(container_id, rounds=1)
        assert result.status == 1, result.text
        assert criu_errors.diagnose(json.loads(result.text)["log"]).cause.name == cause
    assert node.path(f"/proc/{before}/exe").is_symlink()


def start_altered(
    kubelet: Kubelet, spec: PodSpec, sandbox: cri.PodSandboxConfig, container: cri.ContainerConfig
) -> str:
    """Starts a pod with one container from CRI's own messages; returns the container's id."""
    kubelet._make_directories(spec)
    pod = Pod(spec, sandbox, kubelet.cri.run_pod_sandbox(sandbox))
    kubelet.pods.append(pod)
    log = kubelet.node.path(f"{spec.directory}/containers/main/0")
    log.parent.mkdir(parents=True)
    log.touch()
    pod.containers["main"] = kubelet.cri.create_container(pod.sandbox_id, container, sandbox)
    kubelet.cri.start_container(pod.container_id)
    return pod.container_id


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
