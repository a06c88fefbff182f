# SPDX-License-Identifier: Apache-2.0
"""Runs critest on one node on every way in turn: containerd itself, podferry, and with monitors."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shim.errors import PodferryError
from tests.conformance import binary, calls, compare, monitors, registry, rounds, ways
from tests.conformance.compare import Outcome, Report
from tests.conformance.handovers import Handovers
from tests.conformance.rounds import Round, Run
from tests.conformance.ways import Way
from tests.testbed import service, testbed
from tests.testbed.cri import CriClient
from tests.testbed.node import Node

NRI_SOCKET = "/var/run/nri/nri.sock"
REPORTS = "/var/lib/node/conformance/reports"
RUN_DEADLINE_S = 1800
# Its image is named by the digest of a file that only a registry on the Internet has.
IMPOSSIBLE = "public image with digest should be pulled"
FIRST_SEED = 1
# How often a spec that was lost among all others must pass alone to be taken for unsteady.
AGAIN = 3


@dataclass(frozen=True)
class Options:
    """What the user chose.

    Attributes:
        rounds: how many; each is one run for each way.
        focus: a regular expression of specs; "" for all.
        handover_every_s: the time between handovers during runs through podferry; 0 for none.
        keep: a directory of the host for logs and reports; None for none.
        monitor: whether a third run has the container monitor in place.
    """

    rounds: int = 3
    focus: str = ""
    handover_every_s: float = 0.0
    keep: Path | None = None
    monitor: bool = False


class Critest:
    """critest on a node.

    Args:
        node: where; podferry serves there, and the registry.
        program: its path on the node.
        shim: podferry there.
        options: what the user chose.
    """

    def __init__(self, node: Node, program: str, shim: service.Shim, options: Options) -> None:
        self.node = node
        self.program = program
        self.shim = shim
        self.focus = options.focus
        self.keep = options.keep
        self.handover_every_s = options.handover_every_s
        self.ways = ways.chosen(monitor=options.monitor)
        said = node.exec([program, "-help"], check=False)
        self._knows_nri = b"-nri-socket" in said.stdout + said.stderr

    def version(self) -> str:
        """What it says of itself."""
        said = self.node.exec([self.program, "-version"], check=False).text
        return next((line for line in said.splitlines() if "critest version" in line), "unknown")

    def round(self, number: int) -> Round:
        """One round of all ways with one seed."""
        seed = FIRST_SEED + number
        done = {way: self.run(way, seed) for way in ways.in_turn(self.ways, number)}
        direct, *others = (done[way] for way in self.ways)
        judged = Round(seed, direct, tuple(others))
        again = {run.way.name: self.again(run.way, seed, judged.to_try(run)) for run in others}
        return replace(judged, again=again)

    def run(self, way: Way, seed: int) -> Run:
        """One run of all specs that the user wants.

        Raises:
            InvalidInput: it ended without a report.
        """
        ways.prepare(self.node, self.shim, way)
        before, begun_s = calls.status(self.node), time.monotonic()
        every_s = self.handover_every_s if way.through_shim else 0.0
        with (
            Handovers(self.node, self.shim, every_s) as handovers,
            monitors.Monitors(self.node) as had,
        ):
            report = self._critest(way, seed, self.focus, f"{way.name}-{seed}")
        took_s = time.monotonic() - begun_s
        handovers.past.add(calls.status(self.node))
        passed_on = handovers.past.without(before)
        return Run(
            way,
            report,
            took_s,
            shim_calls=passed_on.calls.total(),
            started=passed_on.started,
            monitors=len(had.seen),
            monitors_left=len(monitors.left(self.node)),
            handovers=handovers.done,
        )

    def again(self, way: Way, seed: int, specs: frozenset[str]) -> frozenset[str]:
        """Tries some specs alone on a way; gives those that pass each of the times."""
        times = AGAIN if specs else 0
        if times:
            ways.prepare(self.node, self.shim, way)
        for number in range(times):
            stem = f"{way.name}-{seed}-again-{number + 1}"
            report = self._critest(way, seed, compare.focus(specs), stem)
            specs &= compare.names(report, Outcome.PASSED)
        return specs

    def _critest(self, way: Way, seed: int, focus: str, stem: str) -> Report:
        # It leaves no pod and no pulled image behind, so that the next run starts alike.
        junit = f"{REPORTS}/{stem}.xml"
        self.node.path(REPORTS).mkdir(parents=True, exist_ok=True)
        argv = self._argv(way, seed, junit, focus)
        done = self.node.exec(argv, deadline_s=2 * RUN_DEADLINE_S, check=False)
        said = done.stdout + done.stderr
        if self.keep:
            self.keep.mkdir(parents=True, exist_ok=True)
            (self.keep / f"{stem}.log").write_bytes(said)
        try:
            return compare.parse(self._report(junit), where=f"report of {stem}")
        except PodferryError as error:
            raise type(error)(f"{error.what}: {said[-2000:].decode('utf-8', 'replace')}") from error
        finally:
            tidy(self.node)

    def _argv(self, way: Way, seed: int, junit: str, focus: str) -> list[str]:
        argv = [
            *("timeout", "--kill-after=10", str(RUN_DEADLINE_S + 60)),
            self.program,
            f"--ginkgo.timeout={RUN_DEADLINE_S}s",
            f"--runtime-endpoint=unix://{way.socket}",
            f"--ginkgo.seed={seed}",
            f"--ginkgo.junit-report={junit}",
            f"--ginkgo.skip={IMPOSSIBLE}",
            "--ginkgo.no-color",
        ]
        argv += [f"--nri-socket={NRI_SOCKET}"] if self._knows_nri else []
        return argv + ([f"--ginkgo.focus={focus}"] if focus else [])

    def _report(self, junit: str) -> str:
        path = self.node.path(junit)
        text = path.read_text("utf-8", "replace") if path.exists() else ""
        if self.keep and text:
            (self.keep / path.name).write_text(text)
        return text


def unmask(node: Node) -> None:
    """Takes the engine's cover off /sys: under it the kernel mounts sysfs in no user namespace."""
    node.exec(["sh", "-c", "! mountpoint -q /sys/firmware || umount /sys/firmware"])


def tidy(node: Node) -> None:
    """Removes every pod, and every image that is not the testbed's own."""
    with CriClient(node.containerd.socket) as cri:
        for sandbox in cri.list_pod_sandbox():
            cri.stop_pod_sandbox(sandbox.id)
            cri.remove_pod_sandbox(sandbox.id)
        own = ("podferry.test/",)
        names = [tag for one in cri.list_images() for tag in [*one.repo_tags, *one.repo_digests]]
    pulled = [name for name in names if not name.startswith(own)]
    if pulled:
        node.exec(["ctr", "--namespace=k8s.io", "images", "remove", "--sync", *pulled])


def main(
    program: Path, options: Options, say: Callable[[str], None]
) -> tuple[dict[str, Any], bool]:
    """All rounds on a fresh node; gives the figures and whether the gate holds."""
    with testbed.nodes(1) as [node]:
        say("making stand-ins for critest's images")
        registry.start(node)
        unmask(node)
        service.install(node)
        with service.Shim(node) as shim:
            critest = Critest(node, binary.put(node, program), shim, options)
            say(f"{critest.version()}, {runtime(node)}")
            done = []
            for number in range(options.rounds):
                done.append(critest.round(number))
                for line in rounds.lines(done[-1], number + 1):
                    say(line)
    return rounds.figures(done), all(one.holds for one in done)


def runtime(node: Node) -> str:
    """The runtime's name and version."""
    with CriClient(node.containerd.socket) as cri:
        version = cri.version()
    return f"{version.runtime_name} {version.runtime_version}"
