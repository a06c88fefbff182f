# SPDX-License-Identifier: Apache-2.0
"""Runs a real kubelet on podferry's socket and disturbs what is behind it; nothing may be felt."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.conformance import calls, static_pods
from tests.conformance.gap import Watch
from tests.conformance.kubelet_api import PodState
from tests.conformance.kubelet_process import RealKubelet, cri_errors, not_ready
from tests.conformance.static_pods import CRASHING, HANGING, NAMESPACE, PAGE, SIDE, STEADY
from tests.testbed import service, testbed
from tests.testbed.errors import NodeFailed
from tests.testbed.node import Node
from tests.testbed.process import LOG_DIR

POLL_S = 0.2
POD_DEADLINE_S = 120.0
IDLE_S = 60.0
# kubelet's longest back-off is 3 s, its slowest ordinary period 10 s.
RECOVER_S = 5.0
SETTLE_S = 11.0
HANDOVERS = 2
HANDOVER_DEADLINE_S = 60.0
KILL_GAP_MS = 1000.0


@dataclass
class Phase:
    """What was seen while one thing was done.

    Attributes:
        name: the thing.
        took_s: how long it took, settling included.
        gap_ms: the longest time without an answer on the socket.
        lost: failed calls of the watching client.
        last_lost: how the last of them failed.
        failed: kubelet's failed CRI operations by its names of them.
        errors: lines of kubelet's log that tell of a CRI error.
        late_errors: those of them from the end, when all must be well again.
        not_ready: lines that tell that the node would be NotReady.
    """

    name: str
    took_s: float = 0.0
    gap_ms: float = 0.0
    lost: int = 0
    last_lost: str = ""
    failed: dict[str, int] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    late_errors: list[str] = field(default_factory=list)
    not_ready: int = 0


class Scenario:
    """One kubelet on one node through podferry.

    Args:
        node: where; podferry serves there.
        shim: the service.
        kubelet: runs on its socket.
        watch: measures its gaps.
        say: where progress goes.
    """

    def __init__(
        self,
        node: Node,
        shim: service.Shim,
        kubelet: RealKubelet,
        watch: Watch,
        say: Callable[[str], None],
    ) -> None:
        self.node = node
        self.shim = shim
        self.kubelet = kubelet
        self.watch = watch
        self.say = say
        self.tally = calls.Tally()
        self.phases: list[Phase] = []
        self.problems: list[str] = []
        self.facts: dict[str, Any] = {}
        self._steady: PodState | None = None

    def run(self) -> None:
        """Everything, in order."""
        self.phase("start", self.start)
        self.phase("idle", self.idle, quiet=True)
        self.phase("use", self.use, quiet=True)
        for _ in range(HANDOVERS):
            self.phase("handover", self.hand_over, quiet=True)
        self.phase("kill -9", self.kill)
        self.phase("containerd restart", self.node.containerd.restart)
        self.phase("kubelet restart", self.restart_kubelet)
        self.phase("delete", self.delete, settle=False)
        self.tally.add(calls.status(self.node))

    # ---- how it is watched

    def phase(
        self, name: str, work: Callable[[], None], *, quiet: bool = False, settle: bool = True
    ) -> None:
        """Does one thing, lets things settle, notes what was seen, and judges it.

        Args:
            name: names the thing.
            work: does it.
            quiet: whether kubelet must not see a single CRI error.
            settle: whether to wait afterwards, and to look after the steady pod.
        """
        self.watch.take()
        seen = Phase(name)
        begun_s, mark = time.monotonic(), self.kubelet.log_size()
        _, failed_before = self.kubelet.api.operations()
        work()
        if settle:
            time.sleep(RECOVER_S)
            recovered = self.kubelet.log_size()
            time.sleep(SETTLE_S)
            seen.late_errors = cri_errors(self.kubelet.log_since(recovered))
            self.look_at_steady(name)
        lines = self.kubelet.log_since(mark)
        seen.took_s = time.monotonic() - begun_s
        seen.gap_ms, seen.lost, seen.last_lost = self.watch.take()
        seen.failed = dict(self.kubelet.api.operations()[1] - failed_before)
        seen.errors = cri_errors(lines)
        seen.not_ready = not_ready(lines)
        self.phases.append(seen)
        self.judge(seen, quiet=quiet)

    def judge(self, seen: Phase, *, quiet: bool) -> None:
        """Turns what was seen into problems."""
        self.say(
            f"{seen.name:<19}{seen.took_s:6.1f} s, longest gap {seen.gap_ms:5.0f} ms, "
            f"{seen.lost} lost calls, {len(seen.errors)} CRI errors in kubelet's log"
            + (f"; last lost: {seen.last_lost}" if seen.lost else "")
        )
        if quiet and (seen.errors or seen.lost):
            self.problems.append(f"{seen.name}: {seen.lost} lost calls, {seen.errors[:3]}")
        if seen.late_errors:
            self.problems.append(f"{seen.name}: still after {RECOVER_S} s: {seen.late_errors[0]}")
        if seen.not_ready:
            self.problems.append(f"{seen.name}: the node would have been NotReady")
        if seen.name == "kill -9" and seen.gap_ms > KILL_GAP_MS:
            self.problems.append(f"{seen.name}: no answer for {seen.gap_ms:.0f} ms")

    def look_at_steady(self, when: str) -> None:
        """Checks that the steady pod is the same pod, ready and not restarted."""
        now = self.kubelet.api.pods().get(STEADY)
        if self._steady is None:
            self._steady = now
        if now is None or not now.ready or now != self._steady:
            self.problems.append(f"{when}: the steady pod is {now}, was {self._steady}")

    def until(self, what: str, is_so: Callable[[dict[str, PodState]], bool]) -> float:
        """Waits for a state of kubelet's pods; returns how long it took.

        Raises:
            NodeFailed: it does not come about in time.
        """
        begun_s = time.monotonic()
        while not is_so(pods := self.kubelet.api.pods()):
            if time.monotonic() - begun_s > POD_DEADLINE_S:
                raise NodeFailed(
                    f"{what}: not after {POD_DEADLINE_S} s; pods: {pods}; "
                    f"{self.kubelet.daemon.log_tail()}",
                    where=self.node.name,
                )
            time.sleep(POLL_S)
        return round(time.monotonic() - begun_s, 1)

    # ---- what is done

    def start(self) -> None:
        """Pods start; one crashes and is restarted; one hangs and is restarted by its probe."""
        for pod in (static_pods.steady(), static_pods.crashing(), static_pods.hanging()):
            self.kubelet.add(pod)
        self.facts["ready_s"] = self.until(
            f"{STEADY} ready", lambda pods: STEADY in pods and pods[STEADY].ready
        )
        for name in (CRASHING, HANGING):
            self.facts[f"{name}_restarted_s"] = self.until(
                f"{name} restarted",
                lambda pods, name=name: name in pods and any(pods[name].restarts.values()),  # type: ignore[misc]
            )
            self.kubelet.remove(name)
        self.until("both gone", lambda pods: set(pods) == {STEADY})

    def idle(self) -> None:
        """Nothing happens; counts kubelet's calls, for once without the watch's."""
        with self.watch.paused():
            before, begun_s = calls.status(self.node), time.monotonic()
            time.sleep(IDLE_S)
            after, took_s = calls.status(self.node), time.monotonic() - begun_s
        self.facts["calls_per_minute"] = calls.per_minute(before, after, took_s)

    def use(self) -> None:
        """Run and logs through kubelet's own API, and the pod's page."""
        api = self.kubelet.api
        said = api.run(NAMESPACE, STEADY, SIDE, "cat /shared/now")
        log = api.logs(NAMESPACE, STEADY, SIDE)
        page = self.node.exec(["curl", "-sS", "--max-time", "10", api.pods()[STEADY].ip]).text
        for what, good in (("run", bool(said)), ("logs", "tick" in log), ("page", PAGE in page)):
            if not good:
                self.problems.append(f"use: {what} is not as expected")

    def hand_over(self) -> None:
        """`podferry handover`; waits for the old process's end."""
        old = calls.status(self.node)
        self.node.exec([service.PODFERRY, "--config", service.CONFIG, "handover"])
        self.tally.add(old)  # what it finishes after this answer is not counted
        new = calls.status(self.node).pid
        if new == old.pid:
            self.problems.append("handover: the same process serves")
        self.shim.daemon.wait_ended(HANDOVER_DEADLINE_S)
        self.shim.daemon.pid = new

    def kill(self) -> None:
        """kill -9 of the service, and its start as systemd does it."""
        self.tally.add(calls.status(self.node))
        self.shim.kill()
        self.shim.start()

    def restart_kubelet(self) -> None:
        """Ends kubelet, starts it again; it must find its pod as it was."""
        self.kubelet.daemon.stop()
        self.kubelet.start()
        self.until(f"{STEADY} ready again", lambda pods: STEADY in pods and pods[STEADY].ready)

    def delete(self) -> None:
        """The pod goes; nothing of it stays in the runtime."""
        self.kubelet.remove(STEADY)
        self.until("all gone", lambda pods: not pods)
        deadline = time.monotonic() + POD_DEADLINE_S
        argv = ["ctr", "--namespace=k8s.io", "tasks", "list", "--quiet"]
        while self.node.exec(argv).text:
            if time.monotonic() > deadline:
                self.problems.append("delete: containers run on without their pod")
                return
            time.sleep(POLL_S)


def main(
    program: Path, keep: Path | None, say: Callable[[str], None]
) -> tuple[dict[str, Any], bool]:
    """The scenario on a fresh node; gives the figures and whether nothing was felt."""
    with testbed.nodes(1) as [node]:
        service.install(node)
        with (
            service.Shim(node) as shim,
            RealKubelet(node, program, service.SOCKET) as kubelet,
            Watch(shim.socket) as watch,
        ):
            say(kubelet.version())
            scenario = Scenario(node, shim, kubelet, watch, say)
            try:
                scenario.run()
            finally:
                if keep:
                    keep_logs(node, keep)
            figures = {"kubelet": kubelet.version(), **figures_of(scenario)}
    for problem in scenario.problems:
        say(f"PROBLEM {problem}")
    return figures, not scenario.problems


def keep_logs(node: Node, directory: Path) -> None:
    """Copies the logs of a node's daemons to the host."""
    directory.mkdir(parents=True, exist_ok=True)
    for log in node.path(LOG_DIR).glob("*.log"):
        (directory / log.name).write_bytes(log.read_bytes())


def figures_of(scenario: Scenario) -> dict[str, Any]:
    """What the last line tells."""
    return {
        **scenario.facts,
        "calls": dict(scenario.tally.calls.most_common()),
        "errors": dict(scenario.tally.errors.most_common()),
        "longest_gap_ms": max(round(one.gap_ms) for one in scenario.phases),
        "phases": [
            {
                "name": one.name,
                "gap_ms": round(one.gap_ms),
                "lost": one.lost,
                "kubelet_failed": one.failed,
                "kubelet_log_errors": len(one.errors),
                "not_ready": one.not_ready,
            }
            for one in scenario.phases
        ],
        "problems": scenario.problems,
    }
