# SPDX-License-Identifier: Apache-2.0
"""Real programs move there and back, and give right answers all the way."""

from __future__ import annotations

import hashlib
import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.testbed import images
from tests.testbed.moving import MovingNode, eventually
from tests.testbed.node import Node
from tests.testbed.pods import ContainerSpec, PodSpec
from tests.workloads import start
from tests.workloads.start import ALL, NGINX, Workload

Pair = tuple[MovingNode, MovingNode]


def moved(first: MovingNode, second: MovingNode, uid: str, sandbox_id: str = "") -> str:
    """Moves the pod of a UID; its sandbox at the other node."""
    first.command("migrate", sandbox_id or first.sandbox_of(uid), "--to", second.name)
    eventually(lambda: second.sandbox_of(uid), second)
    return second.sandbox_of(uid)


@pytest.mark.parametrize("workload", ALL, ids=lambda one: one.name)
def test_a_workload_moves_there_and_back(pair: Pair, workload: Workload) -> None:
    first, second = pair
    running = start.start(first.kubelet, workload)
    uid = running.pod.spec.uid
    with running.client() as client:
        client.ask(3)
        client.start(5)
        moved(first, second, uid)
        client.stop()
        client.ask(3)
        if workload.kind != "postgres":  # each connection would want a transaction of its own
            assert client.fresh() >= 0
        client.start(5)
        moved(second, first, uid)
        client.stop()
        client.ask(3)
        felt = client.finish()
    assert felt.is_well, felt


# On a node: ADDRESS. Reads a large file slowly over one connection and prints its digest.
DOWNLOAD = """
import hashlib, socket, sys, time
made = socket.create_connection((sys.argv[1], 80), timeout=30)
made.sendall(b"GET /large HTTP/1.1\\r\\nHost: pod\\r\\nConnection: close\\r\\n\\r\\n")
data = b""
while b"\\r\\n\\r\\n" not in data:
    data += made.recv(65536)
body = data.partition(b"\\r\\n\\r\\n")[2]
seen, size = hashlib.sha256(body), len(body)
print("begun", flush=True)
while got := made.recv(1 << 16):
    seen.update(got)
    size += len(got)
    time.sleep(0.001)
print(size, seen.hexdigest(), flush=True)
"""


@contextmanager
def program(node: Node, script: str, *words: str) -> Iterator[subprocess.Popen[str]]:
    """A program of ours on a node."""
    node.write("/var/tmp/podferry-e2e.py", script)
    argv = node.inside.argv(["/usr/bin/python3", "-u", "/var/tmp/podferry-e2e.py", *words])
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def test_a_download_of_100_mb_goes_on(pair: Pair) -> None:
    first, second = pair
    running = start.start(first.kubelet, NGINX)
    make = "dd if=/dev/urandom of=/srv/large bs=1M count=100 2>/dev/null; sha256sum /srv/large"
    done = first.kubelet.exec(running.pod, ["sh", "-c", make])
    digest = done.stdout.split()[0].decode()
    with program(first.node, DOWNLOAD, running.pod.ip) as download:
        assert download.stdout is not None
        assert download.stdout.readline() == "begun\n"
        moved(first, second, running.pod.spec.uid)
        size, seen = download.stdout.readline().split()
    assert int(size) == 100 << 20
    assert seen == digest


def test_two_containers_that_talk_over_localhost_move_together(pair: Pair) -> None:
    first, second = pair
    ask = (
        "while :; do printf 'INCR n\\r\\n' | nc -w 5 127.0.0.1 6379 | head -1 >> /shared/seen;"
        " sleep 0.05; done"
    )
    spec = PodSpec(
        "two",
        (
            ContainerSpec("server", images.REDIS, mounts={"shared": "/shared"}),
            ContainerSpec("asker", images.BUSYBOX, ("sh", "-c", ask), mounts={"shared": "/shared"}),
        ),
    )
    pod = first.kubelet.run_pod(spec)
    seen = first.node.path(f"{spec.volume('shared')}/seen")
    eventually(lambda: seen.exists() and seen.read_text().count("\n") > 5, first)
    moved(first, second, spec.uid, pod.sandbox_id)
    there = second.node.path(f"{spec.volume('shared')}/seen")
    before = there.read_text().count("\n")
    eventually(lambda: there.read_text().count("\n") > before + 5, second)
    numbers = [int(line.strip().lstrip(":")) for line in there.read_text().split()]
    assert numbers == list(range(1, len(numbers) + 1))  # not one is lost, not one comes twice


# In a pod: works for a while and prints what it found, as one would compute it in one go.
BATCH = """
import hashlib, json, pathlib, time
state = hashlib.sha256()
for number in range(400):
    state.update(b"%d" % number)
    time.sleep(0.01)
pathlib.Path("/result/done").write_text(json.dumps({"digest": state.hexdigest()}))
time.sleep(3600)
"""


def test_a_batch_job_ends_with_the_right_result(pair: Pair) -> None:
    first, second = pair
    main = ContainerSpec(
        "main", images.PYTHON, ("python3", "-c", BATCH), mounts={"result": "/result"}
    )
    spec = PodSpec("batch", (main,))
    pod = first.kubelet.run_pod(spec)
    time.sleep(0.5)
    moved(first, second, spec.uid, pod.sandbox_id)
    done = second.node.path(f"{spec.volume('result')}/done")
    eventually(done.exists, second)
    eventually(done.read_text, second)
    wanted = hashlib.sha256(b"".join(b"%d" % number for number in range(400))).hexdigest()
    assert json.loads(done.read_text())["digest"] == wanted
    assert not first.node.path(f"{spec.volume('result')}/done").exists()
