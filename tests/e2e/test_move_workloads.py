# SPDX-License-Identifier: Apache-2.0
"""Real programs move there and back, and give right answers all the way."""

from __future__ import annotations

import hashlib
import json
import re
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
from tests.workloads.start import MOVED, NGINX, POSTGRES, Workload

Pair = tuple[MovingNode, MovingNode]


def moved(first: MovingNode, second: MovingNode, uid: str, sandbox_id: str = "") -> str:
    """Moves the pod of a UID; its sandbox at the other node."""
    first.command("migrate", sandbox_id or first.sandbox_of(uid), "--to", second.name)
    eventually(lambda: second.sandbox_of(uid), second)
    return second.sandbox_of(uid)


@pytest.mark.parametrize("workload", MOVED, ids=lambda one: one.name)
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


PGBENCH_CLIENTS = 8
PGBENCH_PER_S = 200
"""Transactions; a crowded machine keeps up with them, so that memory settles before the freeze."""
PGBENCH_LONGEST_S = 300
SUMS = (
    "SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(bbalance) FROM"
    " pgbench_branches), (SELECT sum(tbalance) FROM pgbench_tellers), sum(delta), count(*)"
    " FROM pgbench_history"
)


class Bank:
    """PostgreSQL's own programs on a node, connected to a pod.

    Args:
        node: where they run.
        address: the pod's.
    """

    def __init__(self, node: Node, address: str) -> None:
        (home,) = node.path("/usr/lib/postgresql").iterdir()
        self.node = node
        self.programs = f"/usr/lib/postgresql/{home.name}/bin"
        self.server = ["-h", address, "-U", "postgres"]

    def ask(self, query: str) -> list[str]:
        """The columns of a query's only row."""
        psql = [f"{self.programs}/psql", *self.server, "-X", "-A", "-t", "-c", query, "postgres"]
        return self.node.exec(psql).text.split("|")

    def fill(self) -> None:
        """Makes pgbench's tables."""
        pgbench = [f"{self.programs}/pgbench", *self.server, "-i", "-q", "-s", "2", "postgres"]
        self.node.exec(pgbench)

    @contextmanager
    def busy(self) -> Iterator[subprocess.Popen[str]]:
        """pgbench, until it is told to end."""
        words = ["-c", str(PGBENCH_CLIENTS), "-R", str(PGBENCH_PER_S), "-T", str(PGBENCH_LONGEST_S)]
        argv = [f"{self.programs}/pgbench", *self.server, *words, "postgres"]
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            self.node.inside.argv(argv), stdout=pipe, stderr=subprocess.STDOUT, text=True
        )
        try:
            yield process
        finally:
            self.node.exec(["pkill", "-KILL", "-x", "pgbench"], check=False)
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()

    def finish(self, process: subprocess.Popen[str]) -> str:
        """Has pgbench end as if its time were up; what it says of itself."""
        self.node.exec(["pkill", "-ALRM", "-x", "pgbench"])
        said, _ = process.communicate(timeout=60)
        return said

    def transactions(self) -> int:
        """So many have been committed."""
        return int(self.ask("SELECT count(*) FROM pgbench_history")[0])


def test_pgbench_goes_on_beside_an_open_transaction(pair: Pair) -> None:
    first, second = pair
    running = start.start(first.kubelet, POSTGRES)
    uid = running.pod.spec.uid
    with running.client() as open_one:
        bank = Bank(first.node, running.pod.ip)
        bank.fill()
        open_one.ask(3)
        with bank.busy() as pgbench:
            eventually(lambda: bank.transactions() > PGBENCH_PER_S, first)
            open_one.start(20)
            moved(first, second, uid)
            there = bank.transactions()
            eventually(lambda: bank.transactions() > there + PGBENCH_PER_S, second)
            moved(second, first, uid)
            back = bank.transactions()
            eventually(lambda: bank.transactions() > back + PGBENCH_PER_S, first)
            open_one.stop()
            said = bank.finish(pgbench)
        assert pgbench.returncode == 0, said
        assert "number of failed transactions: 0 " in said, said
        processed = re.search(r"transactions actually processed: (\d+)", said)
        assert processed, said
        accounts, branches, tellers, deltas, count = bank.ask(SUMS)
        assert accounts == branches == tellers == deltas
        assert count == processed[1]
        felt = open_one.finish()
    assert felt.is_well, felt
