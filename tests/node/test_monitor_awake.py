# SPDX-License-Identifier: Apache-2.0
"""A container that never sleeps behaves as under bare runc, with its monitor in front of it."""

from __future__ import annotations

import json
from typing import Any

import grpc
import pytest

from cri_proto import runtime_v1_pb2 as pb
from tests.node.fix_monitor import FRESH, MONITORS, ROOT, Watched, eventually
from tests.testbed import front
from tests.testbed.pods import ContainerSpec, PodSpec, container_config

FOREVER = "trap 'exit 7' TERM; echo up; while :; do sleep 1; done"
RSS_LIMIT_KIB = 512


def monitor_of(watched: Watched, container_id: str) -> int:
    return int(watched.state(container_id)["monitor_pid"])


def cri_pid(watched: Watched, container_id: str) -> int:
    request = pb.ContainerStatusRequest(container_id=container_id, verbose=True)
    reply = watched.cri.call("ContainerStatus", request, pb.ContainerStatusResponse)
    info: dict[str, Any] = json.loads(reply.info["info"])
    return int(info["pid"])


def parent_of(watched: Watched, pid: int) -> int:
    return int(watched.node.read(f"/proc/{pid}/stat").rpartition(b")")[2].split()[1])


@pytest.mark.parametrize(
    ("script", "code"),
    [("exit 0", 0), ("exit 3", 3), ("kill -KILL $$", 137), ("exit 255", 255)],
)
def test_the_exit_status_is_the_containers_own(watched: Watched, script: str, code: int) -> None:
    # pid 1 cannot kill itself from inside its pid namespace: a child's end becomes its own.
    inner = script if "kill" not in script else f"sh -c '{script}'; exit $?"
    container = watched.shell("ends", inner)
    assert watched.ended(container).exit_code == code
    assert not watched.directory(container).exists()


def test_the_end_by_a_signal_from_outside_is_128_and_the_signal(watched: Watched) -> None:
    container = watched.shell("shot", "while :; do sleep 1; done")
    init = watched.state(container)["init_pid"]
    watched.node.exec(["kill", "-KILL", str(init)])
    assert watched.ended(container).exit_code == 137


def test_an_oom_kill_is_told_as_one(watched: Watched) -> None:
    container = watched.shell(
        "greedy", "tail /dev/zero; exit 137", memory_limit_bytes=16 << 20
    )  # tail keeps the last line, and /dev/zero has none
    status = watched.ended(container)
    assert (status.exit_code, status.reason) == (137, "OOMKilled")


def test_a_graceful_stop_reaches_the_real_init(watched: Watched) -> None:
    container = watched.shell("polite", FOREVER)
    eventually(lambda: watched.lines(container), "its first line")
    watched.cri.stop_container(container, 20)
    assert watched.status(container).exit_code == 7


def test_containerd_knows_the_monitor_and_runc_the_init(watched: Watched) -> None:
    container = watched.shell("known", FOREVER)
    state = watched.state(container)
    assert cri_pid(watched, container) == state["monitor_pid"]
    runc = watched.runc_state(container)
    assert runc["init_process_pid"] == state["init_pid"]
    assert runc["init_process_start"] == state["init_start"]
    assert parent_of(watched, state["init_pid"]) == state["monitor_pid"]


def test_the_monitor_has_left_the_cgroup_that_containerd_found_by_its_pid(watched: Watched) -> None:
    container = watched.shell("started", FOREVER)
    monitor = monitor_of(watched, container)
    # containerd has looked the cgroup up by the monitor's pid: its figures are the container's.
    assert watched.cri.container_stats(container).cpu.usage_core_nano_seconds.value > 0
    for kind in ("pids", "freezer", "memory", "cpu"):
        assert monitor not in watched.cgroup_procs(container, kind)
        assert watched.state(container)["init_pid"] in watched.cgroup_procs(container, kind)


def test_runc_create_alone_leaves_the_monitor_in_the_cgroup_and_delete_ends_it(
    watched: Watched,
) -> None:
    container = watched.shell("template", FOREVER)
    task = f"/run/containerd/io.containerd.runtime.v2.task/k8s.io/{container}"
    config = json.loads(watched.node.read(f"{task}/config.json"))
    config["linux"]["cgroupsPath"] += "-second"
    config["linux"]["namespaces"] = [
        one for one in config["linux"]["namespaces"] if not one.get("path")
    ]
    bundle = "/run/second-bundle"
    watched.node.path(bundle).mkdir()
    config["root"]["path"] = f"{task}/rootfs"
    watched.node.write(f"{bundle}/config.json", json.dumps(config))
    pid_file = f"{bundle}/pid"
    # Its stdio is the container's: a pipe of ours would not end with the create.
    create = f"{front.BINARY} --root {ROOT} create --bundle {bundle} --pid-file {pid_file} second"
    watched.node.exec(["sh", "-c", f"{create} </dev/null >{bundle}/said 2>&1"])
    monitor = int(watched.node.read(pid_file))
    assert watched.state("second")["state"] == FRESH
    assert monitor in watched.cgroup_procs("second")
    assert monitor != watched.runc_state("second")["init_process_pid"]
    watched.oci("delete", "second")  # created, never started: no force is needed
    eventually(lambda: not watched.alive(monitor), "the monitor's end")
    assert not watched.node.path(f"{MONITORS}/second").exists()
    assert not watched.node.path(f"{ROOT}/second").exists()


def test_a_create_that_fails_tells_runcs_own_reason(watched: Watched) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        watched.start("broken", "/no/such/program")
    assert isinstance(caught.value, grpc.Call)
    assert "/no/such/program" in str(caught.value.details())
    assert "podferry" not in str(caught.value.details())


def test_exec_pause_update_and_stats_work_as_ever(watched: Watched) -> None:
    container = watched.shell("verbs", FOREVER)
    pod = watched.pod_of(container)
    done = watched.exec(pod, ["sh", "-c", "echo out; echo err >&2; exit 5"])
    assert (done.exit_code, done.stdout, done.stderr) == (5, b"out\n", b"err\n")
    watched.oci("pause", container)
    assert json.loads(watched.oci("state", container).text)["status"] == "paused"
    assert watched.state(container)["state"] == 1  # the monitor itself is not frozen
    watched.oci("resume", container)
    request = pb.UpdateContainerResourcesRequest(
        container_id=container, linux=pb.LinuxContainerResources(memory_limit_in_bytes=64 << 20)
    )
    watched.cri.call("UpdateContainerResources", request, pb.UpdateContainerResourcesResponse)
    place = watched.runc_state(container)["cgroup_paths"]["memory"]
    assert int(watched.node.read(f"{place}/memory.limit_in_bytes")) == 64 << 20
    pids = json.loads(watched.oci("ps", "--format", "json", container).text)
    assert watched.state(container)["init_pid"] in pids
    assert monitor_of(watched, container) not in pids


def test_stdin_passes(watched: Watched) -> None:
    container = watched.shell("reader", "cat; exit 4", stdin=True)
    assert watched.is_running(container)
    assert watched.state(container)["terminal"] is False
    fifo = f"/run/containerd/io.containerd.grpc.v1.cri/containers/{container}/io"
    (stdin,) = watched.node.path(fifo).glob("*/*-stdin")
    with stdin.open("w") as pipe:
        pipe.write("a line\n")
    eventually(lambda: "a line" in watched.lines(container), "its answer")


def test_a_terminal_is_the_containers_own_and_keeps_it_awake(watched: Watched) -> None:
    script = "tty; stty size; trap 'echo stopped; exit 6' TERM; while :; do sleep 0.1; done"
    container = watched.shell("terminal", script, stdin=True, tty=True)
    eventually(lambda: len(watched.lines(container)) >= 2, "its first lines")
    assert watched.lines(container)[0].strip() == "/dev/pts/0"
    assert watched.state(container)["terminal"] is True
    assert "terminal" in watched.drive("sleep", container)["error"]
    done = watched.exec(watched.pod_of(container), ["echo", "here"])
    assert done.stdout == b"here\n"
    watched.cri.stop_container(container, 20)
    assert watched.status(container).exit_code == 6
    assert watched.lines(container)[-1].strip() == "stopped"


def test_a_sandbox_and_an_unmanaged_pod_have_no_monitor(watched: Watched) -> None:
    container = watched.shell("managed", FOREVER)
    system = watched.run_pod(
        PodSpec("system", (ContainerSpec("main", command=("sleep", "1d")),), "kube-system")
    )
    declined = watched.run_pod(
        PodSpec(
            "declined",
            (ContainerSpec("main", command=("sleep", "1d")),),
            annotations={"podferry.dev/managed": "false"},
        )
    )
    assert [one.name for one in watched.node.path(MONITORS).iterdir()] == [container]
    for pod in (system, declined):
        assert watched.is_running(pod.container_id)
        assert cri_pid(watched, pod.container_id) == int(
            watched.runc_state(pod.container_id)["init_process_pid"]
        )


def test_a_shared_pid_namespace_is_the_real_inits(watched: Watched) -> None:
    container = watched.shell("target", FOREVER)
    pod = watched.pod_of(container)
    debugger = container_config(pod.spec, ContainerSpec("debug", command=("sleep", "1d")))
    options = debugger.linux.security_context.namespace_options
    options.pid = pb.NamespaceMode.TARGET
    options.target_id = container
    log = watched.node.path(f"{pod.spec.directory}/containers/debug/0")
    log.parent.mkdir(parents=True)
    log.touch()
    made = watched.cri.create_container(pod.sandbox_id, debugger, pod.config)
    pod.containers["debug"] = made
    pod.attempts["debug"] = 0
    watched.cri.start_container(made)
    inits = [watched.state(one)["init_pid"] for one in (container, made)]
    first, second = (watched.node.exec(["readlink", f"/proc/{pid}/ns/pid"]).text for pid in inits)
    assert first == second


def test_a_monitor_is_small(watched: Watched) -> None:
    container = watched.shell("small", FOREVER)
    status = watched.node.read(f"/proc/{monitor_of(watched, container)}/status").decode()
    (line,) = [line for line in status.splitlines() if line.startswith("VmRSS:")]
    assert int(line.split()[1]) <= RSS_LIMIT_KIB


def test_the_front_passes_what_names_no_container(watched: Watched) -> None:
    mine = watched.oci("--version").text
    assert mine == watched.node.exec(["runc", "--version"]).text
    assert json.loads(watched.oci("features").text)["ociVersionMax"]
    failed = watched.oci("state", "nobody", check=False)
    assert failed.status == 1
    assert b"container does not exist" in failed.stderr
