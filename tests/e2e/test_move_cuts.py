# SPDX-License-Identifier: Apache-2.0
"""Pager, CRIU or the link is lost in each phase of a move: the pod runs on exactly one node."""

from __future__ import annotations

import time
from dataclasses import dataclass

import pytest

from tests.e2e.link import cut
from tests.e2e.one_node import check_alive, running, settled
from tests.e2e.stops import PATIENCE_S, Move, arm
from tests.testbed import images
from tests.testbed.moving import MovingNode, eventually
from tests.testbed.pods import ContainerSpec, PodSpec
from tests.testbed.process import POLL_S
from tests.workloads import start
from tests.workloads.start import REDIS

Pair = tuple[MovingNode, MovingNode]

CRIU = "criu"
PAGER = "podferry-pager"
CUT_S = 3.0
"""Long enough for a commit to stay unanswered, and short enough for TCP to go on soon after."""

# The source's line by phase. At the first, both CRIUs wait and nothing of the pod stands still.
COPY = "source before freezing"
FREEZE = "source after freezing"
DUMPED = "source dumped"
STAGED = "source staged"
GAVE_UP = "source after gave up"
COMMITTED = "source committed"

ASK = (
    "while :; do printf 'INCR n\\r\\n' | nc -w 5 127.0.0.1 6379 | head -1 >> /shared/seen;"
    " sleep 0.05; done"
)

# A move leaves nothing here once it is over, though the pod's sandboxes are still there.
PLACES = (
    "/run/podferry/images",
    "/run/podferry/departing",
    "/run/podferry/stores",
    "/run/podferry/mounts",
    "/run/podferry/claims",
)


@dataclass(frozen=True)
class Death:
    """A process that dies.

    Attributes:
        name: of the process.
        at_target: whether it is the target's.
        at: the source's line.
        goes_on: whether the move must come to its end in spite of it (docs/monitor.md, "Failures").
    """

    name: str
    at_target: bool
    at: str
    goes_on: bool


DEATHS = (
    # One that waits for its request is replaced, or the move is refused.
    Death(CRIU, False, COPY, False),
    Death(CRIU, False, FREEZE, False),
    # "CRIU while held: nothing: frozen; RESUME and DEPART do without it".
    Death(CRIU, False, DUMPED, True),
    Death(CRIU, False, STAGED, True),
    Death(CRIU, False, GAVE_UP, True),
    Death(CRIU, False, COMMITTED, True),
    # "CRIU while prepared: another is started by WAKE".
    Death(CRIU, True, COPY, True),
    Death(CRIU, True, FREEZE, True),
    Death(CRIU, True, DUMPED, True),
    # "CRIU while staged: what it has made is killed": it has not run, so the source has it still.
    Death(CRIU, True, STAGED, False),
    Death(CRIU, True, GAVE_UP, False),
    # "The pager: another goes on with the duplicates of its userfaultfds". It starts with the
    # restore, so there is none before.
    Death(PAGER, True, STAGED, True),
    Death(PAGER, True, GAVE_UP, True),
)


def kill(node: MovingNode, name: str) -> None:
    """kill -9 of a node's processes of a name; there must be one."""
    node.node.exec(["pkill", "-KILL", "-x", name])


def ended(first: MovingNode, second: MovingNode) -> bool:
    """Whether all is over, and nothing of it is left but the pod."""
    return settled(first, second) and not any(
        one.processes(CRIU)
        or one.processes(PAGER)
        or [path for path in one.left() if path.startswith(PLACES)]
        for one in (first, second)
    )


def runs_there(first: MovingNode, second: MovingNode) -> bool:
    """Whether the move has come to its end."""
    return not first.processes("redis-server") and len(second.processes("redis-server")) == 1


@pytest.mark.parametrize(
    "death",
    DEATHS,
    ids=lambda one: f"{one.name} at the {'target' if one.at_target else 'source'}, {one.at}",
)
def test_the_pod_runs_on_one_node_after_a_death(pair: Pair, death: Death) -> None:
    first, second = pair
    arm(first, death.at)
    redis = start.start(first.kubelet, REDIS)
    with redis.client() as client:
        client.ask(5)
        with Move(first, redis.pod.sandbox_id, second) as move:
            move.wait_stopped()
            kill(second if death.at_target else first, death.name)
            assert not (running(first) and running(second))
            move.go_on()
            result = move.ended()
        eventually(lambda: ended(first, second), first, second)
        if death.goes_on:
            assert result.status == 0, result.stderr.decode()
        assert runs_there(first, second) == (result.status == 0)
        check_alive(client, redis, first, second)
        eventually(lambda: ended(first, second), first, second)


def test_another_pager_goes_on_after_the_pod_runs(pair: Pair) -> None:
    first, second = pair
    arm(first, STAGED)
    redis = start.start(first.kubelet, REDIS)
    with redis.client() as client:
        client.ask(5)
        with Move(first, redis.pod.sandbox_id, second) as move:
            move.wait_stopped()
            # So that memory is missing still when it is killed: a small pod's comes in a moment.
            second.node.exec(["pkill", "-STOP", "-x", PAGER])
            killed = second.processes(PAGER)
            move.go_on()
            steps = ("resumed", "dropped")
            eventually(lambda: second.migrations()[-1]["step"] in steps, second)
            assert second.processes(PAGER) == killed
            kill(second, PAGER)
            assert move.ended().status == 0, move.ended().stderr.decode()
        eventually(lambda: ended(first, second), first, second)
        assert runs_there(first, second)
        check_alive(client, redis, first, second)
        eventually(lambda: ended(first, second), first, second)


@pytest.mark.parametrize(
    "at", ["source after copying", COPY, FREEZE, DUMPED, STAGED, GAVE_UP, COMMITTED]
)
def test_the_pod_runs_on_one_node_after_a_cut(pair: Pair, at: str) -> None:
    first, second = pair
    arm(first, at)
    redis = start.start(first.kubelet, REDIS)
    with redis.client() as client:
        client.ask(5)
        with Move(first, redis.pod.sandbox_id, second) as move:
            move.wait_stopped()
            with cut(second):
                move.go_on()
                until = time.monotonic() + CUT_S
                while time.monotonic() < until:
                    assert not (running(first) and running(second))
                    if at in (STAGED, GAVE_UP):
                        # The source has given it up, or is about to, and the target is not told.
                        assert not running(second)
                    time.sleep(POLL_S)
                if at in (STAGED, GAVE_UP):
                    assert not running(first)  # in doubt: nobody may
                if at == COMMITTED:
                    assert running(second)
            result = move.ended()
        eventually(lambda: ended(first, second), first, second)
        if at in (STAGED, GAVE_UP, COMMITTED):
            # Once they hear each other again: "gave up, staged: tells it once more".
            assert result.status == 0, result.stderr.decode()
        assert runs_there(first, second) == (result.status == 0)
        check_alive(client, redis, first, second)
        eventually(lambda: ended(first, second), first, second)


@pytest.mark.slow
@pytest.mark.parametrize("at", [FREEZE, DUMPED, "source sent"])
def test_a_source_that_is_cut_off_for_long_lets_the_pod_run_on(pair: Pair, at: str) -> None:
    first, second = pair
    arm(first, at)
    redis = start.start(first.kubelet, REDIS)
    with redis.client() as client:
        client.ask(5)
        with Move(first, redis.pod.sandbox_id, second) as move:
            move.wait_stopped()
            with cut(second):
                move.go_on()
                until = time.monotonic() + PATIENCE_S
                # Nobody has told the target to resume it, so the source may thaw.
                while not running(first):
                    assert time.monotonic() < until, f"it stands still: {first.log()}"
                    time.sleep(POLL_S)
                client.ask(5)
            result = move.ended()
        assert result.status == 1, result.text
        assert result.stderr.decode().startswith("podferry:")
        eventually(lambda: ended(first, second), first, second)
        assert not second.processes("redis-server")
        check_alive(client, redis, first, second)
        eventually(lambda: ended(first, second), first, second)


def test_a_target_that_was_not_told_of_the_end_hears_it_later(pair: Pair) -> None:
    first, second = pair
    arm(first, DUMPED)
    redis = start.start(first.kubelet, REDIS)
    with redis.client() as client:
        client.ask(5)
        with Move(first, redis.pod.sandbox_id, second) as move:
            move.wait_stopped()
            with cut(second):
                move.go_on()
                # Until the source does not wait for an answer to its "drop" any more.
                assert move.ended().status == 1
                assert running(first)
        # "The target was told or will be": nobody does anything about it here.
        eventually(lambda: ended(first, second), first, second)
        assert not second.processes("redis-server")
        assert second.sandbox_of(redis.pod.spec.uid) == ""
        check_alive(client, redis, first, second)
        eventually(lambda: ended(first, second), first, second)


def criu_of(node: MovingNode, container_id: str) -> str:
    """The pid of the CRIU of one container."""
    monitor = node.node.read(f"/run/podferry/monitors/k8s.io/{container_id}/pid").decode().strip()
    return node.node.exec(["pgrep", "-P", monitor, "-x", CRIU]).text


def test_a_dump_that_is_under_way_when_another_fails_is_undone(pair: Pair) -> None:
    first, second = pair
    arm(first, FREEZE)
    spec = PodSpec("two", (
        ContainerSpec("server", images.REDIS, mounts={"shared": "/shared"}),
        ContainerSpec("asker", images.BUSYBOX, ("sh", "-c", ASK), mounts={"shared": "/shared"}),
    ))  # fmt: skip
    pod = first.kubelet.run_pod(spec)
    seen = first.node.path(f"{spec.volume('shared')}/seen")
    eventually(lambda: seen.exists() and seen.read_text().count("\n") > 5, first)
    with Move(first, pod.sandbox_id, second) as move:
        move.wait_stopped()
        slow = criu_of(first, pod.containers["asker"])
        dead = criu_of(first, pod.containers["server"])
        first.node.exec(["kill", "-STOP", slow])
        first.node.exec(["mount", "--bind", "/bin/false", "/usr/sbin/criu"])
        try:
            first.node.exec(["kill", "-KILL", dead])
            move.go_on()
            # It may be given up at once, or only once the other dump has ended: both are right.
            until = time.monotonic() + CUT_S
            while first.migrations()[-1]["step"] != "abandoned" and time.monotonic() < until:
                time.sleep(POLL_S)
        finally:
            first.node.exec(["umount", "/usr/sbin/criu"])
            first.node.exec(["kill", "-CONT", slow], check=False)
        assert move.ended().status == 1
    # The asker gets no answers without the server, and says nothing if it stands still itself.
    before = seen.read_text().count("\n")
    eventually(lambda: seen.read_text().count("\n") > before + 5, first)
    time.sleep(1)
    before = seen.read_text().count("\n")
    eventually(lambda: seen.read_text().count("\n") > before + 5, first)
    first.migrate(pod, second)
