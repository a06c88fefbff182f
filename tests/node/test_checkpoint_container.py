# SPDX-License-Identifier: Apache-2.0
"""CheckpointContainer through podferry: the container runs on, and runc restores the archive."""

from __future__ import annotations

import json
import tarfile

import grpc
import pytest

from cri_proto import runtime_v1_pb2 as cri
from tests.node.test_sleep import Sleepers, front_node, settings, sleepers
from tests.testbed import images
from tests.testbed.kubelet import Kubelet, Pod
from tests.testbed.pods import ContainerSpec, PodSpec

__all__ = ["front_node", "settings", "sleepers"]

ARCHIVE = "/var/lib/kubelet/checkpoint.tar"
PLACE = "/run/podferry-restore"

# What containerd does with an archive, by runc alone: ARCHIVE, the image's layers, PLACE.
RESTORE = """
import json, subprocess, sys, tarfile
archive, lower, place = sys.argv[1:]
subprocess.run(["mkdir", "-p", *(f"{place}/{n}" for n in ("b/rootfs", "upper", "w", "a"))])
tarfile.open(archive).extractall(f"{place}/a", filter="fully_trusted")
tarfile.open(f"{place}/a/rootfs-diff.tar").extractall(f"{place}/upper", filter="fully_trusted")
spec = json.load(open(f"{place}/a/spec.dump"))
spec["linux"]["cgroupsPath"] += "-again"
json.dump(spec, open(f"{place}/b/config.json", "w"))
overlay = f"lowerdir={lower},upperdir={place}/upper,workdir={place}/w"
mount = ["mount", "-t", "overlay", "overlay", "-o", overlay, f"{place}/b/rootfs"]
subprocess.run(mount, check=True)
command = ["runc", "restore", "--detach", "--image-path", f"{place}/a/checkpoint"]
command += ["--work-path", place, "--bundle", f"{place}/b", "again"]
with open(f"{place}/said", "w") as said:
    # Its end is awaited, not that of its pipe, which the container keeps open.
    done = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said)
sys.exit(done.wait())
"""


def checkpoint(kubelet: Kubelet, pod: Pod, location: str = ARCHIVE) -> None:
    """What kubelet's checkpoint endpoint asks."""
    request = cri.CheckpointContainerRequest(
        container_id=pod.container_id, location=location, timeout=60
    )
    kubelet.cri.call("CheckpointContainer", request, cri.CheckpointContainerResponse, 60.0)


def layers(sleepers: Sleepers, pod: Pod) -> str:
    """The lower directories of a container's root."""
    state = f"/run/containerd/runc/k8s.io/{pod.container_id}/state.json"
    pid = json.loads(sleepers.node.read(state))["init_process_pid"]
    root = sleepers.node.read(f"/proc/{pid}/mountinfo").decode().splitlines()[0]
    return root.partition("lowerdir=")[2].partition(",")[0]


def test_the_archive_is_whole_and_the_container_runs_on(sleepers: Sleepers) -> None:
    pod = sleepers.redis()
    assert sleepers.ask(pod, "SET a 41") == "+OK"
    checkpoint(sleepers.kubelet, pod)
    assert sleepers.ask(pod, "INCR a") == ":42"
    path = sleepers.node.path(ARCHIVE)
    assert path.stat().st_mode & 0o777 == 0o600
    with tarfile.open(path) as tar:
        names = set(tar.getnames())
        config = json.load(tar.extractfile("config.dump"))  # type: ignore[arg-type]
        status = json.load(tar.extractfile("status.dump"))  # type: ignore[arg-type]
    wanted = {"config.dump", "spec.dump", "status.dump", "status", "stats-dump", "rootfs-diff.tar"}
    assert wanted <= names
    assert {"checkpoint/inventory.img", "checkpoint/descriptors.json"} <= names
    assert config["rootfsImageName"] == images.REDIS
    assert (status["id"], status["state"]) == (pod.container_id, int(cri.CONTAINER_RUNNING))
    assert isinstance(status["created_at"], int)
    assert list(sleepers.node.path("/run/podferry/checkpoints").iterdir()) == []
    path.unlink()


def test_runc_restores_the_archive_of_a_pod_with_an_open_connection(sleepers: Sleepers) -> None:
    pod = sleepers.redis()
    assert sleepers.ask(pod, "SET a 41") == "+OK"
    sleepers.kubelet.exec(pod, ["sh", "-c", "echo written > /tmp/file; rm /etc/passwd"])
    held = f"import socket,time; s = socket.create_connection(('{pod.ip}', 6379)); time.sleep(60)"
    client = sleepers.node.daemon("client", ["python3", "-c", held])
    client.start()
    sleepers.eventually(lambda: sleepers.node.exec(["ss", "-Htn", "dst", pod.ip]).text)
    lower = layers(sleepers, pod)
    checkpoint(sleepers.kubelet, pod)
    client.stop("KILL")
    # Its address and port are wanted again.
    sleepers.kubelet.cri.stop_container(pod.container_id, grace_s=0)
    node = sleepers.node
    node.write("/var/tmp/restore.py", RESTORE)
    try:
        argv = ["python3", "/var/tmp/restore.py", ARCHIVE, lower, PLACE]
        done = node.exec(argv, check=False)
        assert done.status == 0, node.read(f"{PLACE}/said").decode()
        assert sleepers.ask(pod, "INCR a") == ":42"
        assert node.read(f"{PLACE}/b/rootfs/tmp/file") == b"written\n"
        assert node.path(f"{PLACE}/upper/etc/.wh.passwd").exists(), "a deletion is a whiteout"
    finally:
        node.exec(["runc", "delete", "--force", "again"], check=False)
        node.exec(["umount", f"{PLACE}/b/rootfs"], check=False)
        node.exec(["rm", "-rf", PLACE, ARCHIVE], check=False)


def test_what_cannot_be_dumped_is_told_and_runs_on(sleepers: Sleepers) -> None:
    program = "import ctypes,time; ctypes.CDLL(None).syscall(425, 4, (ctypes.c_char * 120)())"
    command = ("python3", "-c", program + "; open('/tmp/up', 'w'); time.sleep(86400)")
    pod = sleepers.kubelet.run_pod(
        PodSpec("uring", (ContainerSpec("main", images.PYTHON, command),))
    )
    sleepers.eventually(lambda: sleepers.kubelet.exec(pod, ["ls", "/tmp/up"]).exit_code == 0)
    with pytest.raises(grpc.RpcError) as caught:
        checkpoint(sleepers.kubelet, pod)
    assert "io_uring" in str(caught.value)
    assert sleepers.kubelet.exec(pod, ["echo", "on"]).stdout == b"on\n"
    assert not sleepers.node.path(ARCHIVE).exists()
    assert list(sleepers.node.path("/run/podferry/checkpoints").iterdir()) == []
