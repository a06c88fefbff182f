# SPDX-License-Identifier: Apache-2.0
"""The testbed itself: pods on two nodes reach each other, and nothing is left behind."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cri_proto import runtime_v1_pb2 as pb
from tests.testbed import apt, cadence, images, run
from tests.testbed.cadence import Cadence, Figures
from tests.testbed.kubelet import Kubelet, Pod
from tests.testbed.node import Node
from tests.testbed.pods import ContainerSpec, PodSpec
from tests.testbed.service import Shim

SLEEP = ("sleep", "86400")

DOOMED = """
import sys
from tests.testbed import run, testbed
from tests.testbed.kubelet import Kubelet
from tests.testbed.pods import ContainerSpec, PodSpec

with testbed.nodes(1) as (node,):
    pod = Kubelet(node).run_pod(PodSpec("left", (ContainerSpec("c", command=("sleep", "86400")),)))
    print(run.run_id(), node.name, pod.container_id, flush=True)
    {end}
"""


def sleeper(name: str) -> PodSpec:
    """A pod that does nothing."""
    return PodSpec(name, (ContainerSpec("main", command=SLEEP),))


def test_pods_of_two_nodes_reach_each_other(two_kubelets: tuple[Kubelet, Kubelet]) -> None:
    first, second = two_kubelets
    here, there = first.run_pod(sleeper("here")), second.run_pod(sleeper("there"))
    for kubelet, pod, other in ((first, here, there), (second, there, here)):
        reply = kubelet.exec(pod, ["ping", "-c", "1", "-W", "5", other.ip])
        assert reply.exit_code == 0, reply.stdout


def test_pod_addresses_are_not_translated(two_kubelets: tuple[Kubelet, Kubelet]) -> None:
    first, second = two_kubelets
    server = first.run_pod(PodSpec("server", (ContainerSpec("main", image=images.PYTHON),)))
    client = second.run_pod(sleeper("client"))
    # The server may not listen yet; fifty tries, a tenth of a second apart.
    ask = f"for i in $(seq 50); do echo | nc -w 1 {server.ip} 7000 && exit; sleep 0.1; done"
    said = second.exec(client, ["sh", "-c", ask]).stdout.decode()
    assert said.split()[-1:] == [client.ip], first.log(server)


@pytest.mark.parametrize("image", [one for one in images.ALL if one != images.PAUSE])
def test_every_image_runs(kubelet: Kubelet, image: str) -> None:
    command = SLEEP if image == images.BUSYBOX else ()
    pod = kubelet.run_pod(PodSpec("one", (ContainerSpec("main", image, command),)))
    assert kubelet.exec(pod, ["true"]).exit_code == 0
    status = kubelet.cri.container_status(pod.container_id).status
    assert status.state == pb.ContainerState.CONTAINER_RUNNING, kubelet.log(pod)


def test_exec_gives_both_streams_and_the_status(kubelet: Kubelet) -> None:
    pod = kubelet.run_pod(sleeper("one"))
    reply = kubelet.exec(pod, ["sh", "-c", "echo out; echo err >&2; exit 7"])
    assert (reply.stdout, reply.stderr, reply.exit_code) == (b"out\n", b"err\n", 7)


def test_empty_dir_is_kubelets_directory(kubelet: Kubelet, node: Node) -> None:
    spec = PodSpec("one", (ContainerSpec("main", command=SLEEP, mounts={"data": "/data"}),))
    pod = kubelet.run_pod(spec)
    kubelet.exec(pod, ["sh", "-c", "echo kept >/data/file"])
    assert node.read(f"{spec.volume('data')}/file") == b"kept\n"


def test_deleted_pod_leaves_nothing_on_its_node(kubelet: Kubelet, node: Node) -> None:
    before = _traces(node)
    pod = kubelet.run_pod(sleeper("one"))
    assert _traces(node) != before
    kubelet.delete_pod(pod, grace_s=0)
    assert _traces(node) == before


def test_containers_survive_a_killed_containerd(kubelet: Kubelet, node: Node) -> None:
    pod = kubelet.run_pod(sleeper("one"))
    node.containerd.kill()
    node.containerd.start()
    status = kubelet.cri.container_status(pod.container_id).status
    assert status.state == pb.ContainerState.CONTAINER_RUNNING


def test_node_booted_by_systemd_runs_pods(systemd_node: Node) -> None:
    assert systemd_node.exec(["systemctl", "is-active", "containerd"]).text == "active"
    with Kubelet(systemd_node) as kubelet:
        pod = kubelet.run_pod(sleeper("one"))
        systemd_node.containerd.restart()
        assert kubelet.exec(pod, ["echo", "yes"]).stdout == b"yes\n"
    failed = systemd_node.exec(["systemctl", "--failed", "--plain", "--no-legend"]).text
    assert failed == ""


def test_node_comes_back_after_a_power_cut(two_kubelets: tuple[Kubelet, Kubelet]) -> None:
    first, second = two_kubelets
    first.run_pod(sleeper("lost"))
    first.node.reset()
    first.redial()
    states = {one.state for one in first.cri.list_pod_sandbox()}
    assert states == {pb.PodSandboxState.SANDBOX_NOTREADY}
    here, there = first.run_pod(sleeper("here")), second.run_pod(sleeper("there"))
    assert first.exec(here, ["ping", "-c", "1", "-W", "5", there.ip]).exit_code == 0


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "sources.list",
            "# deb http://no.test/debian x\ndeb [arch=amd64] http://a.test/debian x main\n",
        ),
        ("sources.list.d/a.sources", "Types: deb\nURIs: http://a.test/debian\nSuites: x\n"),
        (
            "sources.list.d/a.list",
            "deb https://b.test/apt x main\ndeb http://a.test/debian x main\n",
        ),
    ],
)
def test_mirror_is_read_from_the_hosts_apt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    monkeypatch.delenv("PODFERRY_DEBIAN_MIRROR", raising=False)
    assert apt.debian_mirror(tmp_path) == ""
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
    assert apt.debian_mirror(tmp_path) == "http://a.test/debian"
    monkeypatch.setenv("PODFERRY_DEBIAN_MIRROR", "http://c.test/debian")
    assert apt.debian_mirror(tmp_path) == "http://c.test/debian"


def test_cadence_counts_what_kubelet_would_notice(kubelet: Kubelet, node: Node) -> None:
    kubelet.run_pod(sleeper("one"))
    expected = {method for _, _, methods in cadence.ROWS for method in methods}
    with Cadence(node.containerd.socket, scale=0.1) as loops:
        _wait(lambda: set(loops.figures().calls) == expected, "every method called")
        assert not loops.figures().errors
        node.containerd.kill()
        _wait(lambda: bool(loops.figures().errors), "an error counted")
        node.containerd.start()
        good = loops.figures()
        _wait(lambda: _good(loops.figures()) > _good(good), "good answers again")
    figures = loops.figures()
    assert {status for _, status in figures.errors} == {"UNAVAILABLE"}
    assert figures.longest_gap_s > 0


def test_pod_through_podferry(shim_kubelet: Kubelet, shim: Shim) -> None:
    pod: Pod = shim_kubelet.run_pod(sleeper("one"))
    assert shim_kubelet.exec(pod, ["echo", "yes"]).stdout == b"yes\n"
    shim.kill()
    shim.start()
    assert shim_kubelet.exec(pod, ["echo", "again"]).stdout == b"again\n"


def test_failed_run_leaves_nothing(node: Node) -> None:
    done = _doomed("raise RuntimeError('on purpose')")
    assert "on purpose" in done.stderr
    assert _remains(node, done) == []


def test_killed_run_is_cleaned_up_by_the_next(node: Node) -> None:
    done = _doomed("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert _remains(node, done) != []
    run.remove_leftovers(node.client, ours=False)
    assert _remains(node, done) == []


def _wait(condition: Callable[[], bool], what: str, deadline_s: float = 60.0) -> None:
    deadline = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {deadline_s} s: {what}"
        time.sleep(0.02)


def _good(figures: Figures) -> int:
    return figures.calls.total() - figures.errors.total()


def _doomed(end: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", DOOMED.format(end=end)], capture_output=True, text=True, check=False
    )


def _remains(node: Node, done: subprocess.CompletedProcess[str]) -> list[str]:
    """What is still there of a run that printed its id, its node and its container."""
    run_id, name, container_id = done.stdout.split()
    label = {"label": f"{run.LABEL}={run_id}"}
    found = [f"container {one.name}" for one in node.client.containers.list(True, filters=label)]
    found += [f"network {one.name}" for one in node.client.networks.list(filters=label)]
    found += [f"volume {one.name}" for one in node.client.volumes.list(filters=label)]
    found += [str(path) for path in Path("/sys/fs/cgroup").glob(f"**/{name}")]
    mounts = Path("/proc/self/mountinfo").read_text()
    found += [line for line in mounts.splitlines() if name in line or container_id in line]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            text = (process / "cmdline").read_bytes() + (process / "cgroup").read_bytes()
        except OSError:
            continue
        if container_id.encode() in text or name.encode() in text:
            found.append(f"process {process.name}")
    return found


def _traces(node: Node) -> list[str]:
    """What a pod leaves on its node: processes, mounts, interfaces, cgroups, directories, rules."""
    script = """
        ps -eo args= | grep -v -e '^ps ' -e 'sort' -e '^/bin/sh -c' -e grep
        cut -d' ' -f5 /proc/self/mountinfo
        ip -o link | cut -d: -f2 | cut -d@ -f1
        find /sys/fs/cgroup -type d -path '*pod*-*'
        ls /var/log/pods /var/lib/kubelet/pods /run/netns /var/lib/cni/networks/testbed
        nft list ruleset | grep 10.244
    """
    said = node.exec(["/bin/sh", "-c", f"({script}) 2>/dev/null | sort"], check=False)
    return said.text.splitlines()
