# SPDX-License-Identifier: Apache-2.0
"""Writable layers and volumes from a container of one node to one of another, by containerd."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.files.looking import Seen, differences, look
from tests.node.test_checkpoint_engine import wait_for
from tests.testbed import images, service
from tests.testbed.kubelet import Kubelet, Pod
from tests.testbed.node import Node
from tests.testbed.pods import ContainerSpec, PodSpec

PYTHON = "/opt/podferry/bin/python3"
DRIVER = "/var/tmp/podferry-files/files_driver.py"
STATE = "/var/tmp/podferry-files/state"
FRAMES = "/var/tmp/podferry-files/frames"

# What a container can do to its root: each in a form that an overlay keeps in a way of its own.
CHANGES = """
import mmap, os, shutil, socket, time
os.unlink('/etc/group')                                  # whiteout
shutil.rmtree('/srv'); os.mkdir('/srv'); open('/srv/new', 'w').write('opaque')
try: os.rename('/root', '/renamed')                      # EXDEV: as mv goes on
except OSError: shutil.copytree('/root', '/renamed'); shutil.rmtree('/root')
open('/etc/passwd', 'a').write('more:x:1:1::/:/bin/sh\\n')  # copied up
os.mkdir('/work'); os.chmod('/work', 0o3777)
open('/work/file', 'w').write('content')
os.link('/work/file', '/work/name'); os.link('/work/file', '/name')
os.setxattr('/work/file', 'user.note', b'kept')
shutil.copy('/usr/bin/busybox', '/work/program')
os.chown('/work/program', 1000, 1000); os.chmod('/work/program', 0o4755)
os.setxattr('/work/program', 'security.capability',
            bytes.fromhex('0100000200040000000000000000000000000000'))
with open('/work/sparse', 'wb') as f:
    f.truncate(1 << 30)
    for at in (0, 5 << 20, (1 << 30) - 4096): f.seek(at); f.write(b'x' * 4096)
os.mkfifo('/work/fifo', 0o640); os.mknod('/work/null', 0o020666, os.makedev(1, 3))
s = socket.socket(socket.AF_UNIX); s.bind('/work/socket'); s.listen()
os.symlink('/nowhere', '/work/link'); os.makedirs('/work/empty/empty')
os.mkdir(b'/work/\\xff\\xfe'); open(b'/work/' + b'n' * 255, 'w').close()
os.utime('/work/file', ns=(1, 1234567890123456789))
m = open('/work/mapped', 'w+b'); m.truncate(1 << 20); mapped = mmap.mmap(m.fileno(), 0)
mapped[0] = 1
for one in range(2000):
    os.makedirs(f'/work/many/{one % 50}', exist_ok=True)
    open(f'/work/many/{one % 50}/{one}', 'w').write(str(one))
open('/data/big', 'wb').write(os.urandom(8 << 20)); os.link('/data/big', '/data/same')
open('/tmp/first', 'w').close()
while not os.path.exists('/tmp/go'): time.sleep(0.02)
mapped[1] = 2                                            # no time moves
os.rename('/work/many', '/work/moved'); shutil.rmtree('/work/empty')
os.unlink('/work/fifo'); os.mkdir('/work/fifo')
with open('/work/sparse', 'r+b') as f: f.seek(7 << 20); f.write(b'y')
with open('/data/big', 'r+b') as f: f.seek(4 << 20); f.write(b'changed')
open('/srv/new', 'a').write('!')
open('/tmp/second', 'w').close()
while True: time.sleep(1000)
"""


def start(kubelet: Kubelet, name: str, program: str) -> Pod:
    """Starts a pod with one volume and a Python program."""
    spec = ContainerSpec(
        "main", images.PYTHON, ("python3", "-c", program), mounts={"data": "/data"}
    )
    return kubelet.run_pod(PodSpec(name, (spec,)))


def drive(node: Node, *words: str) -> dict[str, Any]:
    """files_driver.py's answer."""
    result = node.exec([PYTHON, DRIVER, *words], check=False)
    assert result.status == 0, result.text + result.stderr.decode()
    answer: dict[str, Any] = json.loads(result.text)
    return answer


class Move:
    """A tree on its way from one pod to another."""

    def __init__(self, nodes: tuple[Node, Node], kind: str, what: tuple[str, str]) -> None:
        self.nodes, self.kind, self.what = nodes, kind, what
        self.state = f"{STATE}-{kind}"

    def round(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """One round; what both ends say."""
        source, target = self.nodes
        sent = drive(source, "send", self.kind, self.what[0], self.state, FRAMES)
        target.write(FRAMES, source.read(FRAMES))
        applied = drive(target, "apply", self.kind, self.what[1], FRAMES)
        return sent, applied

    def differences(self) -> list[str]:
        """What the summaries would differ by."""
        here, there = (
            drive(node, "show", self.kind, what)
            for node, what in zip(self.nodes, self.what, strict=True)
        )
        paths = sorted(here.keys() | there.keys())
        return [
            f"{path}: {here.get(path)} / {there.get(path)}"
            for path in paths
            if here.get(path) != there.get(path)
        ]


@pytest.fixture
def nodes(two_nodes: tuple[Node, Node]) -> tuple[Node, Node]:
    """Two nodes with this tree's podferry."""
    for node in two_nodes:
        service.install(node)
        node.write(DRIVER, Path(__file__).with_name("files_driver.py").read_text())
        for kind in ("layer", "volume"):
            node.path(f"{STATE}-{kind}").unlink(missing_ok=True)
    return two_nodes


def merged(node: Node, said: dict[str, Any], container_id: str, changed: set[str]) -> Seen:
    """What is to be seen in a container's root, by a walk of the test's own.

    Directories of the image have the time at which each node has unpacked it, unless the container
    has changed them.
    """
    root = f"/run/containerd/io.containerd.runtime.v2.task/k8s.io/{container_id}/rootfs"
    seen = look(node.path(root), frozenset(one.encode() for one in said["exclude"]))
    for path, about in seen.items():
        if about["mode"].startswith("0o4") and repr(path[2:]) not in changed:
            about.pop("mtime")
    return seen


def test_a_container_of_another_node_sees_the_same_files(
    nodes: tuple[Node, Node], two_kubelets: tuple[Kubelet, Kubelet]
) -> None:
    source = start(two_kubelets[0], "source", CHANGES)
    target = start(two_kubelets[1], "target", "import time; time.sleep(86400)")
    layer = Move(nodes, "layer", (source.container_id, target.container_id))
    names = (f"{source.spec.uid}/data", f"{target.spec.uid}/data")
    volume = Move(nodes, "volume", names)
    root = nodes[0].path(
        f"/run/containerd/io.containerd.runtime.v2.task/k8s.io/{source.container_id}/rootfs"
    )
    wait_for(root / "tmp/first")
    layer.round()
    volume.round()
    (root / "tmp/go").touch()
    wait_for(root / "tmp/second")
    sent, applied = layer.round()
    assert layer.differences() == []
    assert applied["is_equal"]
    assert sent["mapped"] > 0
    assert sent["sent_bytes"] < 1 << 20
    changed = set(drive(nodes[0], "show", "layer", source.container_id))
    left = merged(nodes[0], applied, source.container_id, changed)
    right = merged(nodes[1], applied, target.container_id, changed)
    assert len(left) > 2000
    assert differences(left, right) == []
    sent, applied = volume.round()
    assert applied["is_equal"]
    assert sent["sent_bytes"] == 64 << 10
    here, there = (
        look(node.path(pod.spec.volume("data")))
        for node, pod in zip(nodes, (source, target), strict=True)
    )
    assert differences(here, there) == []
    assert not here[b"./big"]["size"] % (8 << 20)
    # Nothing has changed since, but for the mapped file, which is looked at.
    sent, applied = layer.round()
    assert sent["sent_bytes"] == 0
    assert sent["read_bytes"] <= 1 << 20
    assert applied["is_equal"]
