# SPDX-License-Identifier: Apache-2.0
"""A claimed container waits for another's arrival: it is restored in, dropped, or started cold."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass

import pytest

from tests.node.fix_monitor import PYTHON, ROOT, SOURCES, eventually
from tests.node.fix_move import (
    CLAIMED,
    COUNTER,
    DEPARTED,
    HELD,
    RUNNING,
    STAGED,
    Claim,
    Pair,
)
from tests.testbed import front
from tests.testbed.pods import PodSpec


@dataclass
class Waiting:
    """A counter that is held on A, and its place on B that is claimed and armed."""

    pair: Pair
    source: str
    claim: Claim
    place: str

    @property
    def target(self) -> str:
        return self.claim.container_id

    def counts_on_b(self) -> None:
        """It goes on from where it was held, with nothing said twice, and starts nowhere else."""
        b = self.pair.b
        said = [int(line) for line in self.pair.a.lines(self.source)]
        eventually(lambda: len(b.lines(self.target)) > 2, "lines on B")
        more = [int(line) for line in b.lines(self.target)]
        assert said + more == list(range(len(said) + len(more)))

    def counts_on_a(self) -> None:
        """It runs on where it was."""
        a = self.pair.a
        a.must(RUNNING, "resume", self.source)
        before = len(a.lines(self.source))
        eventually(lambda: len(a.lines(self.source)) > before + 1, "more lines on A")
        lines = [int(line) for line in a.lines(self.source)]
        assert lines == list(range(len(lines)))


@pytest.fixture
def waiting(pair: Pair) -> Waiting:
    spec = PodSpec("counter", (COUNTER,))
    source = pair.a.run_pod(spec).container_id
    eventually(lambda: len(pair.a.lines(source)) > 2, "its first lines")
    claim = pair.claim(spec)
    pair.a.must(HELD, "hold", source)
    place = pair.carry(source, claim.container_id)
    pair.b.must(CLAIMED, "arm", claim.container_id, place)
    return Waiting(pair, source, claim, place)


def others(pair: Pair, target: str) -> set[int]:
    """What is in its cgroup besides what a claim puts there."""
    state = pair.b.step("state", target)
    own = {state["monitor_pid"], state["placeholder_pid"], state["init_pid"]}
    return pair.b.cgroup_procs(target) - own


def scaffolds(waiting: Waiting) -> str:
    """The directories in which CRIU builds mount namespaces."""
    return waiting.pair.b.node.exec(["sh", "-c", "ls -d /tmp/.criu* 2>/dev/null || true"]).text


def begin_exec(waiting: Waiting) -> subprocess.Popen[bytes]:
    """An exec that waits until the container runs."""
    argv = [front.BINARY, "--root", ROOT, "exec", waiting.target, "echo", "here"]
    waits = subprocess.Popen(waiting.pair.b.node.inside.argv(argv), stdout=subprocess.PIPE)
    with pytest.raises(subprocess.TimeoutExpired):
        waits.wait(1)
    return waits


# ---- claimed


def test_an_unclaimed_container_starts_as_if_nothing_had_been(waiting: Waiting) -> None:
    b, target = waiting.pair.b, waiting.target
    b.must(CLAIMED, "claim", target)  # may be asked again
    b.step("unclaim", target)
    waiting.claim.started()
    eventually(lambda: b.lines(target)[:2] == ["0", "1"], "a cold start")
    state = b.step("state", target)
    assert (state["state"], state["placeholder_pid"], state["wakes"]) == (RUNNING, 0, 0)
    for verb in ("claim", "unclaim", "go", "drop", "stage"):
        assert "error" in b.step(verb, target)
    waiting.counts_on_a()


def test_a_withdrawn_announcement_is_none(pair: Pair) -> None:
    assert pair.b.step("withdraw", "nobody") == {"withdrawn": False}
    pair.b.step("announce", "nobody")
    assert pair.b.step("withdraw", "nobody") == {"withdrawn": True}


def test_verbs_on_a_claimed_one(waiting: Waiting) -> None:
    b, target = waiting.pair.b, waiting.target
    state = b.step("state", target)
    seen = json.loads(b.oci("state", target).text)
    assert (seen["status"], seen["pid"]) == ("created", state["init_pid"])
    assert state["init_pid"] in json.loads(b.oci("ps", "--format", "json", target).text)
    waiting.claim.started()  # kubelet's start was answered, and nothing has happened
    assert b.is_running(target)
    assert b.lines(target) == []
    waits = begin_exec(waiting)
    for verb in ("go", "hold", "resume", "depart"):
        assert "error" in b.step(verb, target), verb
    assert b.step("drop", target)["state"] == CLAIMED  # nothing to drop
    assert b.state_of(target) == CLAIMED
    b.must(STAGED, "stage", target)
    b.must(RUNNING, "go", target)
    assert waits.communicate(timeout=60)[0] == b"here\n"
    waiting.counts_on_b()


def test_a_claimed_one_may_exit_as_its_like_did_elsewhere(waiting: Waiting) -> None:
    b, target = waiting.pair.b, waiting.target
    waiting.claim.started()
    b.step("exit", target, "3")
    assert b.ended(target).exit_code == 3
    assert not b.directory(target).exists()


@pytest.mark.parametrize("staged", [False, True])
def test_kubelets_stop_ends_what_waits(waiting: Waiting, staged: bool) -> None:
    b, target = waiting.pair.b, waiting.target
    waiting.claim.started()
    if staged:
        b.must(STAGED, "stage", target)
    tasks = b.cgroup_procs(target)
    b.cri.stop_container(target, 0)
    assert b.ended(target).exit_code == 137
    assert not any(b.alive(pid) for pid in tasks)
    waiting.counts_on_a()


@pytest.mark.parametrize("staged", [False, True])
@pytest.mark.parametrize("words", ["kill ID KILL", "delete --force ID", "delete ID"])
def test_what_waits_can_be_ended(waiting: Waiting, words: str, staged: bool) -> None:
    b, target = waiting.pair.b, waiting.target
    if staged:
        b.must(STAGED, "stage", target)
    tasks = b.cgroup_procs(target)
    b.oci(*words.replace("ID", target).split())
    for pid in tasks:
        eventually(lambda pid=pid: not b.alive(pid), f"the end of {pid}")
    eventually(lambda: not b.directory(target).exists(), "the monitor's end")
    assert b.ended(target).exit_code == 137
    waiting.counts_on_a()


# ---- staged


def test_nothing_of_what_is_staged_runs_before_go(waiting: Waiting) -> None:
    b, target = waiting.pair.b, waiting.target
    b.must(STAGED, "stage", target)
    b.must(STAGED, "stage", target)  # may be asked again
    tasks = others(waiting.pair, target)
    assert tasks
    assert b.still(tasks)
    assert b.lines(target) == []
    for verb in ("claim", "unclaim", "prepare", "hold", "resume", "depart", "exit"):
        assert "error" in b.step(verb, target), verb
    assert "error" in b.step("arm", target, waiting.place)
    waits = begin_exec(waiting)
    b.must(RUNNING, "go", target)
    assert waits.communicate(timeout=60)[0] == b"here\n"
    waiting.claim.started()
    waiting.counts_on_b()
    waiting.pair.a.must(DEPARTED, "depart", waiting.source)


@pytest.mark.parametrize("prepared", [False, True])
def test_what_was_dropped_can_be_staged_again(waiting: Waiting, prepared: bool) -> None:
    b, target = waiting.pair.b, waiting.target
    before = scaffolds(waiting)
    for _ in range(2):
        if prepared:
            b.must(CLAIMED, "prepare", target)
            assert len(b.criu(target)) == 1
        b.must(STAGED, "stage", target)
        b.must(CLAIMED, "drop", target)
        eventually(lambda: not b.criu(target), "CRIU's end")
        assert not others(waiting.pair, target)
        assert b.lines(target) == []
        b.must(CLAIMED, "arm", target, waiting.place)
    assert scaffolds(waiting) == before
    b.must(STAGED, "stage", target)
    b.must(RUNNING, "go", target)
    waiting.claim.started()
    waiting.counts_on_b()


def test_a_dropped_one_can_start_cold(waiting: Waiting) -> None:
    b, target = waiting.pair.b, waiting.target
    b.must(STAGED, "stage", target)
    b.must(CLAIMED, "drop", target)
    b.step("unclaim", target)
    waiting.claim.started()
    eventually(lambda: b.lines(target)[:2] == ["0", "1"], "a cold start")
    waiting.counts_on_a()


# ---- who dies


def test_a_criu_killed_while_it_holds_leaves_the_claim(waiting: Waiting) -> None:
    b, target = waiting.pair.b, waiting.target
    b.must(STAGED, "stage", target)
    argv = [PYTHON, f"{SOURCES}/monitor_driver.py", "events", target, "1"]
    told = subprocess.Popen(
        b.node.inside.argv(argv, {"PYTHONPATH": SOURCES}), stdout=subprocess.PIPE, text=True
    )
    assert told.stdout
    assert told.stdout.readline() == "{}\n"
    b.node.exec(["sleep", "0.2"])
    b.kill(*b.criu(target))
    event = json.loads(told.stdout.readline())
    assert told.wait(60) == 0
    assert (event["after"], event["status"]) == (CLAIMED, 5)
    assert "CRIU ended" in event["text"]
    assert not others(waiting.pair, target)
    b.must(CLAIMED, "arm", target, waiting.place)
    b.must(STAGED, "stage", target)
    b.must(RUNNING, "go", target)
    waiting.counts_on_b()


def test_a_criu_that_waits_for_its_request_may_die(waiting: Waiting) -> None:
    b, target = waiting.pair.b, waiting.target
    b.must(CLAIMED, "prepare", target)
    b.kill(*b.criu(target))
    eventually(lambda: not b.criu(target), "CRIU's end")
    b.must(STAGED, "stage", target)
    b.must(RUNNING, "go", target)
    waiting.counts_on_b()


def test_images_that_cannot_be_read_leave_the_claim(waiting: Waiting) -> None:
    b, target = waiting.pair.b, waiting.target
    images = b.node.path(waiting.place)
    images.rename(images.with_name("aside"))
    assert "CRIU" in b.step("stage", target)["error"]
    assert b.state_of(target) == CLAIMED
    assert not others(waiting.pair, target)
    shutil.rmtree(images, ignore_errors=True)
    images.with_name("aside").rename(images)
    b.must(STAGED, "stage", target)
    b.must(RUNNING, "go", target)
    waiting.counts_on_b()


@pytest.mark.parametrize("staged", [False, True])
def test_a_killed_monitor_takes_all_that_waits_with_it(waiting: Waiting, staged: bool) -> None:
    b, target = waiting.pair.b, waiting.target
    if staged:
        b.must(STAGED, "stage", target)
    tasks = b.cgroup_procs(target)
    b.kill(b.step("state", target)["monitor_pid"])
    for pid in tasks:
        eventually(lambda pid=pid: not b.alive(pid), f"the end of {pid}")
    eventually(lambda: not b.directory(target).exists(), "the fence")
    assert b.ended(target).exit_code == 137
    assert b.lines(target) == []
    waiting.counts_on_a()


def test_without_its_monitor_nothing_starts(waiting: Waiting) -> None:
    b, target = waiting.pair.b, waiting.target
    waiting.claim.started()
    monitor = b.step("state", target)["monitor_pid"]
    shim = int(b.node.read(f"/proc/{monitor}/stat").rpartition(b")")[2].split()[1])
    b.node.exec(["kill", "-STOP", str(shim)])  # else it fences at once
    try:
        b.kill(monitor)
        failed = b.oci("start", target, check=False)
    finally:
        b.node.exec(["kill", "-CONT", str(shim)])
    assert failed.status == 1
    assert b"its monitor has ended" in failed.stderr
    assert b.ended(target).exit_code == 137
    assert b.lines(target) == []


@pytest.mark.parametrize("staged", [False, True])
def test_a_claim_outlives_containerd(waiting: Waiting, staged: bool) -> None:
    b, target = waiting.pair.b, waiting.target
    waiting.claim.started()
    if staged:
        b.must(STAGED, "stage", target)
    b.node.containerd.restart()
    b.redial()
    assert b.is_running(target)
    assert b.state_of(target) == (STAGED if staged else CLAIMED)
    if not staged:
        b.must(STAGED, "stage", target)
    b.must(RUNNING, "go", target)
    assert b.is_running(target)
    waiting.counts_on_b()


def test_the_throw_away_init_may_not_die_before_the_arrival(waiting: Waiting) -> None:
    b, target = waiting.pair.b, waiting.target
    b.must(STAGED, "stage", target)
    tasks = b.cgroup_procs(target)
    b.kill(b.step("state", target)["init_pid"])
    for pid in tasks:
        eventually(lambda pid=pid: not b.alive(pid), f"the end of {pid}")
    assert b.ended(target).exit_code == 137
    waiting.counts_on_a()


def test_an_arrival_outlives_containerd(waiting: Waiting) -> None:
    b, target = waiting.pair.b, waiting.target
    b.must(STAGED, "stage", target)
    b.must(RUNNING, "go", target)
    waiting.claim.started()
    b.node.containerd.restart()
    b.redial()
    assert b.is_running(target)
    waiting.counts_on_b()
    assert b.exec(waiting.claim.pod, ["echo", "here"]).stdout == b"here\n"
    assert b.state_of(target) == RUNNING
