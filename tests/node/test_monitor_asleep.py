# SPDX-License-Identifier: Apache-2.0
"""What every verb of the runtime does to a container that sleeps, with real containerd and CRIU."""

from __future__ import annotations

import json

import pytest

from cri_proto import runtime_v1_pb2 as pb
from tests.compare import assert_in_order
from tests.node.fix_monitor import ASLEEP, MONITORS, ROOT, RUNNING, Watched, eventually
from tests.testbed.pods import ContainerSpec, PodSpec, container_config

COUNT = "trap 'echo bye; exit 7' TERM; i=0; while :; do echo $i; i=$((i+1)); sleep 0.2; done"


def counting(watched: Watched, name: str = "counter") -> str:
    """A container that writes numbers, and has written some."""
    container = watched.shell(name, COUNT)
    eventually(lambda: len(watched.lines(container)) > 2, "its first lines")
    return container


def numbers(watched: Watched, container: str) -> list[int]:
    return [int(line) for line in watched.lines(container) if line.isdigit()]


def test_it_goes_on_where_it_was_and_containerd_sees_nothing(watched: Watched) -> None:
    container = counting(watched)
    before = watched.status(container)
    monitor = watched.state(container)["monitor_pid"]
    watched.sleep(container)
    written = numbers(watched, container)
    assert watched.is_running(container)
    assert watched.alive(monitor)
    assert numbers(watched, container) == written
    watched.wake(container)
    eventually(lambda: len(numbers(watched, container)) > len(written) + 2, "lines after the wake")
    seen = numbers(watched, container)
    assert_in_order(seen, len(seen))
    assert watched.status(container) == before


def test_it_sleeps_and_wakes_again_and_again(watched: Watched) -> None:
    container = counting(watched)
    for round_number in range(1, 4):
        watched.sleep(container)
        state = watched.wake(container)
        assert (state["sleeps"], state["wakes"]) == (round_number, round_number)
    done = watched.exec(watched.pod_of(container), ["echo", "here"])
    assert done.stdout == b"here\n"


def test_the_restored_init_is_the_monitors_child_and_runcs_state_is_true(watched: Watched) -> None:
    container = counting(watched)
    before = watched.runc_state(container)
    old = watched.state(container)
    watched.sleep(container)
    asleep = watched.state(container)
    known = watched.runc_state(container)
    assert known["init_process_pid"] == asleep["placeholder_pid"]
    assert known["namespace_paths"] == before["namespace_paths"]
    watched.wake(container)
    new = watched.state(container)
    assert new["init_pid"] != old["init_pid"]
    stat = watched.node.read(f"/proc/{new['init_pid']}/stat").rpartition(b")")[2].split()
    assert int(stat[1]) == new["monitor_pid"]
    after = watched.runc_state(container)
    assert after["init_process_pid"] == new["init_pid"]
    assert after["init_process_start"] == int(stat[19]) == new["init_start"]
    assert set(after["namespace_paths"].values()) >= {
        f"/proc/{new['init_pid']}/ns/{kind}" for kind in ("mnt", "net", "pid", "uts", "ipc")
    }
    own_time = watched.node.exec(["readlink", f"/proc/{new['init_pid']}/ns/time"]).text
    node_time = watched.node.exec(["readlink", "/proc/1/ns/time"]).text
    kinds = [one["type"] for one in after["config"]["namespaces"]]
    assert ("NEWTIME" in kinds) == (own_time != node_time)
    for key in ("cgroup_paths", "id", "created", "external_descriptors"):
        assert after[key] == before[key]


def test_the_cgroup_is_kept_populated_and_thawed_by_a_placeholder(watched: Watched) -> None:
    container = counting(watched)
    cgroups = watched.node.read(f"/proc/{watched.state(container)['init_pid']}/cgroup")
    watched.sleep(container)
    state = watched.state(container)
    for kind in ("pids", "freezer", "memory", "cpu"):
        assert watched.cgroup_procs(container, kind) == {state["placeholder_pid"]}
    place = watched.runc_state(container)["cgroup_paths"]
    assert watched.node.read(f"{place['freezer']}/freezer.state") == b"THAWED\n"
    for number in range(3):
        target = f"/proc/{state['placeholder_pid']}/fd/{number}"
        assert watched.node.exec(["readlink", target]).text.strip() == "/dev/null"
    assert watched.cri.container_stats(container).attributes.id == container
    watched.wake(container)
    init = watched.state(container)["init_pid"]
    assert watched.node.read(f"/proc/{init}/cgroup") == cgroups
    assert not watched.alive(state["placeholder_pid"])


def test_a_killed_placeholder_is_replaced(watched: Watched) -> None:
    container = counting(watched)
    watched.sleep(container)
    old = watched.state(container)["placeholder_pid"]
    watched.node.exec(["kill", "-KILL", str(old)])
    new = eventually(
        lambda: watched.state(container)["placeholder_pid"] not in (0, old), "another placeholder"
    )
    assert new
    new_pid = watched.state(container)["placeholder_pid"]
    eventually(lambda: new_pid in watched.cgroup_procs(container), "it in the cgroup")
    assert watched.runc_state(container)["init_process_pid"] == new_pid
    watched.wake(container)


def test_questions_are_answered_without_a_wake(watched: Watched) -> None:
    container = counting(watched)
    watched.sleep(container)
    assert json.loads(watched.oci("state", container).text)["status"] == "running"
    pids = json.loads(watched.oci("ps", "--format", "json", container).text)
    assert pids == [watched.state(container)["placeholder_pid"]]
    watched.oci("events", "--stats", container)
    request = pb.UpdateContainerResourcesRequest(
        container_id=container, linux=pb.LinuxContainerResources(memory_limit_in_bytes=64 << 20)
    )
    watched.cri.call("UpdateContainerResources", request, pb.UpdateContainerResourcesResponse)
    state = watched.state(container)
    assert (state["state"], state["wakes"], state["leases"]) == (ASLEEP, 0, 0)
    place = watched.runc_state(container)["cgroup_paths"]["memory"]
    assert int(watched.node.read(f"{place}/memory.limit_in_bytes")) == 64 << 20
    watched.wake(container)  # update has written the state file: it must name the new init again
    assert watched.runc_state(container)["init_process_pid"] == watched.state(container)["init_pid"]


@pytest.mark.parametrize("verb", ["pause", "resume"])
def test_pause_and_resume_wake_first(watched: Watched, verb: str) -> None:
    container = counting(watched)
    watched.sleep(container)
    watched.oci(verb, container, check=verb == "pause")  # runc refuses to resume what is running
    assert watched.state(container)["state"] == RUNNING
    if verb == "pause":
        assert json.loads(watched.oci("state", container).text)["status"] == "paused"
        watched.oci("resume", container)


def test_exec_wakes_first(watched: Watched) -> None:
    container = counting(watched)
    watched.sleep(container)
    done = watched.exec(watched.pod_of(container), ["sh", "-c", "echo inside; exit 3"])
    assert (done.exit_code, done.stdout) == (3, b"inside\n")
    assert watched.state(container)["state"] == RUNNING


def test_a_signal_wakes_first_so_that_the_container_ends_as_it_wants(watched: Watched) -> None:
    container = counting(watched)
    watched.sleep(container)
    watched.cri.stop_container(container, 20)
    assert watched.status(container).exit_code == 7
    assert watched.lines(container)[-1] == "bye"


def test_a_sigkill_needs_no_wake(watched: Watched) -> None:
    container = counting(watched)
    watched.sleep(container)
    lines = watched.lines(container)
    placeholder = watched.state(container)["placeholder_pid"]
    watched.cri.stop_container(container, 0)
    assert watched.status(container).exit_code == 137
    assert watched.lines(container) == lines
    assert not watched.alive(placeholder)
    assert not watched.directory(container).exists()
    assert not watched.node.path(f"/run/podferry-driver/images/{container}").exists()


def test_delete_without_force_is_refused_as_for_any_running_container(watched: Watched) -> None:
    container = counting(watched)
    watched.sleep(container)
    failed = watched.oci("delete", container, check=False)
    assert failed.status == 1
    assert b"not stopped" in failed.stderr
    watched.wake(container)


def test_delete_force_ends_monitor_placeholder_and_images(watched: Watched) -> None:
    container = counting(watched)
    watched.sleep(container)
    state = watched.state(container)
    watched.oci("delete", "--force", container)
    assert not watched.node.path(f"{ROOT}/{container}").exists()
    assert not watched.directory(container).exists()
    assert not watched.node.path(f"/run/podferry-driver/images/{container}").exists()
    for pid in (state["monitor_pid"], state["placeholder_pid"]):
        assert not watched.alive(pid)
    assert watched.ended(container).exit_code == 137


def test_a_trigger_wakes_it_without_anybody_of_ours(watched: Watched) -> None:
    container = counting(watched)
    fifo = f"/run/trigger-{container[:8]}"
    watched.sleep(container, fifo)
    # The driver has ended: only the monitor holds the other end now.
    watched.node.exec(["sh", "-c", f"echo now >{fifo}"])
    eventually(lambda: watched.state(container)["state"] == RUNNING, "its wake")
    watched.node.path(fifo).unlink()


def test_a_prepared_wake_has_its_criu_waiting(watched: Watched) -> None:
    container = counting(watched)
    watched.sleep(container)
    alone = {watched.state(container)["placeholder_pid"]}
    assert watched.cgroup_procs(container) == alone
    for _ in range(2):  # to be armed again is to have another
        watched.drive("prepare", container)
        (criu,) = watched.cgroup_procs(container) - alone
        assert watched.node.read(f"/proc/{criu}/comm") == b"criu\n"
        kept, criu_before = watched.alive(criu), criu
    assert kept
    watched.wake(container)
    assert not watched.alive(criu_before)
    # One that has died is replaced by the wake, one of a container that ends goes with it.
    watched.sleep(container)
    watched.drive("prepare", container)
    alone = {watched.state(container)["placeholder_pid"]}
    (criu,) = watched.cgroup_procs(container) - alone
    watched.node.exec(["kill", "-KILL", str(criu)])
    eventually(lambda: watched.cgroup_procs(container) == alone, "its end")
    watched.wake(container)
    watched.sleep(container)
    watched.drive("prepare", container)
    procs = watched.cgroup_procs(container)
    watched.cri.stop_container(container, 0)
    assert not any(watched.alive(pid) for pid in procs)


def test_a_wake_without_having_been_armed_is_refused(watched: Watched) -> None:
    container = counting(watched)
    watched.sleep(container)
    watched.drive("disarm", container)
    assert "not armed" in watched.drive("wake", container)["error"]
    assert watched.is_running(container)


def test_sleep_is_refused_while_an_exec_session_runs(watched: Watched) -> None:
    container = counting(watched)
    argv = ["ctr", "-n", "k8s.io", "task", "exec", "--detach", "--exec-id", "busy", container]
    watched.node.exec([*argv, "sleep", "1d"])
    assert "exec session" in watched.drive("sleep", container)["error"]
    assert watched.state(container)["state"] == RUNNING
    watched.node.exec(
        ["ctr", "-n", "k8s.io", "task", "kill", "--exec-id", "busy", "-s", "9", container]
    )


def test_sleep_is_refused_where_runcs_state_names_another_process(watched: Watched) -> None:
    container = counting(watched)
    path = f"{ROOT}/{container}/state.json"
    true = watched.node.read(path)
    try:
        assert "runc's state" in watched.drive("sleep-spoilt", container)["error"]
        assert watched.state(container)["state"] == RUNNING
    finally:
        watched.node.write(path, true)
    watched.sleep(container)
    watched.wake(container)


def test_a_shared_namespace_of_a_sleeper_wakes_it(watched: Watched) -> None:
    container = counting(watched)
    watched.sleep(container)
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
    state = watched.state(container)
    assert state["state"] == RUNNING
    links = [
        watched.node.exec(["readlink", f"/proc/{pid}/ns/pid"]).text
        for pid in (state["init_pid"], watched.state(made)["init_pid"])
    ]
    assert links[0] == links[1]


def test_deleting_a_sleeping_pod_drains_its_io_at_once(watched: Watched) -> None:
    container = counting(watched)
    watched.sleep(container)
    watched.delete_pod(watched.pod_of(container), grace_s=0)
    log = watched.node.containerd.daemon.log_tail(200000)
    assert not [
        line for line in log.splitlines() if "failed to drain" in line and container in line
    ]
    assert not watched.node.path(f"{MONITORS}/{container}").exists()


def test_a_cpu_limit_is_lifted_for_the_wake_and_comes_back(watched: Watched) -> None:
    container = counting(watched)
    place = watched.runc_state(container)["cgroup_paths"]["cpu"]
    pod_place = place.rpartition("/")[0]
    quotas = {f"{pod_place}/cpu.cfs_quota_us": "20000", f"{place}/cpu.cfs_quota_us": "10000"}
    for path, value in quotas.items():
        watched.node.exec(["sh", "-c", f"echo {value} >{path}"])
    watched.sleep(container)
    watched.wake(container)
    for path, value in quotas.items():
        assert watched.node.read(path).decode().strip() == value
    assert not watched.node.path(f"{MONITORS}/{container}/cpu").exists()


def test_a_pod_with_two_containers_sleeps_one_by_one(watched: Watched) -> None:
    spec = PodSpec(
        "pair", tuple(ContainerSpec(name, command=("sh", "-c", COUNT)) for name in ("a", "b"))
    )
    pod = watched.run_pod(spec)
    first, second = pod.containers.values()
    watched.sleep(first)
    assert watched.state(second)["state"] == RUNNING
    watched.sleep(second)
    watched.wake(first)
    watched.wake(second)
