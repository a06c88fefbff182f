# SPDX-License-Identifier: Apache-2.0
"""Runs critest against containerd and through podferry, in turns on one node, and compares."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from shim.errors import PodferryError
from tests.conformance import binary, calls, compare, registry
from tests.conformance.compare import Outcome, Report, Verdict
from tests.conformance.handovers import Handovers
from tests.testbed import containerd, service, testbed
from tests.testbed.cri import CriClient
from tests.testbed.node import Node

Way = Literal["direct", "shim"]
SOCKETS: dict[Way, str] = {"direct": containerd.SOCKET, "shim": service.SOCKET}
NRI_SOCKET = "/var/run/nri/nri.sock"
REPORTS = "/var/lib/node/conformance/reports"
RUN_DEADLINE_S = 1800
# Its image is named by the digest of a file that only a registry on the Internet has.
IMPOSSIBLE = "public image with digest should be pulled"
FIRST_SEED = 1


@dataclass(frozen=True)
class Options:
    """What the user chose.

    Attributes:
        rounds: how many; each is two runs.
        focus: a regular expression of specs; "" for all.
        handover_every_s: the time between handovers during runs through podferry; 0 for none.
        keep: a directory of the host for logs and reports; None for none.
    """

    rounds: int = 3
    focus: str = ""
    handover_every_s: float = 0.0
    keep: Path | None = None


@dataclass(frozen=True)
class Run:
    """One run of critest.

    Attributes:
        way: what it spoke to.
        report: its specs.
        took_s: how long it took.
        shim_calls: how many calls podferry passed on meanwhile.
        handovers: how often it was replaced meanwhile.
    """

    way: Way
    report: Report
    took_s: float
    shim_calls: int
    handovers: int = 0


@dataclass(frozen=True)
class Round:
    """Two runs with one seed, judged."""

    seed: int
    direct: Run
    shim: Run
    verdict: Verdict


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
        said = node.exec([program, "-help"], check=False)
        self._knows_nri = b"-nri-socket" in said.stdout + said.stderr

    def version(self) -> str:
        """What it says of itself."""
        said = self.node.exec([self.program, "-version"], check=False).text
        return next((line for line in said.splitlines() if "critest version" in line), "unknown")

    def run(self, way: Way, seed: int) -> Run:
        """One run; leaves no pod and no pulled image behind, so that the next one starts alike.

        Raises:
            InvalidInput: it ended without a report.
        """
        junit = f"{REPORTS}/{way}-{seed}.xml"
        self.node.path(REPORTS).mkdir(parents=True, exist_ok=True)
        before, begun_s = calls.status(self.node), time.monotonic()
        every_s = self.handover_every_s if way == "shim" else 0.0
        with Handovers(self.node, self.shim, every_s) as handovers:
            done = self.node.exec(
                self._argv(way, seed, junit), deadline_s=2 * RUN_DEADLINE_S, check=False
            )
        took_s = time.monotonic() - begun_s
        passed_on = handovers.past + calls.status(self.node).total - before.total
        said = done.stdout + done.stderr
        if self.keep:
            self.keep.mkdir(parents=True, exist_ok=True)
            (self.keep / f"{way}-{seed}.log").write_bytes(said)
        try:
            report = compare.parse(self._report(junit), where=f"report of {way}, seed {seed}")
        except PodferryError as error:
            raise type(error)(f"{error.what}: {said[-2000:].decode('utf-8', 'replace')}") from error
        finally:
            tidy(self.node)
        return Run(way, report, took_s, passed_on, handovers.done)

    def round(self, number: int) -> Round:
        """One round; who is first alternates, so that nobody always finds the warmer node."""
        seed = FIRST_SEED + number
        order: tuple[Way, Way] = ("shim", "direct") if number % 2 else ("direct", "shim")
        done = {way: self.run(way, seed) for way in order}
        direct, shim = done["direct"], done["shim"]
        return Round(seed, direct, shim, compare.compare(direct.report, shim.report))

    def _argv(self, way: Way, seed: int, junit: str) -> list[str]:
        argv = [
            *("timeout", "--kill-after=10", str(RUN_DEADLINE_S + 60)),
            self.program,
            f"--ginkgo.timeout={RUN_DEADLINE_S}s",
            f"--runtime-endpoint=unix://{SOCKETS[way]}",
            f"--ginkgo.seed={seed}",
            f"--ginkgo.junit-report={junit}",
            f"--ginkgo.skip={IMPOSSIBLE}",
            "--ginkgo.no-color",
        ]
        argv += [f"--nri-socket={NRI_SOCKET}"] if self._knows_nri else []
        return argv + ([f"--ginkgo.focus={self.focus}"] if self.focus else [])

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
                show(done[-1], number + 1, say)
    return figures(done), all(one.verdict.passes for one in done) and went_through(done)


def runtime(node: Node) -> str:
    """The runtime's name and version."""
    with CriClient(node.containerd.socket) as cri:
        version = cri.version()
    return f"{version.runtime_name} {version.runtime_version}"


def went_through(rounds: list[Round]) -> bool:
    """Whether the runs took the ways that they claim."""
    return all(one.direct.shim_calls < one.shim.shim_calls // 10 for one in rounds)


def show(one: Round, number: int, say: Callable[[str], None]) -> None:
    """Tells one round."""
    say(f"round {number}, seed {one.seed}")
    for run in (one.direct, one.shim):
        counts = compare.count(run.report)
        say(
            f"  {run.way:<7}{len(run.report):>4} specs {counts[Outcome.PASSED]:>4} passed"
            f"{counts[Outcome.FAILED]:>4} failed{counts[Outcome.SKIPPED]:>4} skipped"
            f"{run.took_s:>8.1f} s{run.shim_calls:>7} calls through podferry"
            + (f", {run.handovers} handovers" if run.handovers else "")
        )
    for title, differences in (("LOST", one.verdict.lost), ("other", one.verdict.other)):
        for pair in differences:
            reason = (pair.shim.reason or pair.direct.reason)[:300]
            say(
                f"  {title}: {pair.name}: direct {pair.direct.outcome.value}, "
                f"through podferry {pair.shim.outcome.value}: {reason}"
            )


def figures(rounds: list[Round]) -> dict[str, Any]:
    """What the last line tells: sets over all rounds, and each round's counts."""
    direct, shim = [one.direct.report for one in rounds], [one.shim.report for one in rounds]
    lost = {pair.name for one in rounds for pair in one.verdict.lost}
    other = {pair.name for one in rounds for pair in one.verdict.other}
    return {
        "rounds": len(rounds),
        "specs": len({name for report in [*direct, *shim] for name in report}),
        "passed_direct": len(compare.always(direct, Outcome.PASSED)),
        "passed_shim": len(compare.always(shim, Outcome.PASSED)),
        "failed_direct": sorted({n for r in direct for n in compare.names(r, Outcome.FAILED)}),
        "failed_only_through_shim": sorted(lost),
        "other_differences": sorted(other),
        "skipped": len(compare.always([*direct, *shim], Outcome.SKIPPED)),
        "per_round": [
            {
                "seed": one.seed,
                **{
                    run.way: {
                        **{kind.value: n for kind, n in compare.count(run.report).items() if n},
                        "took_s": round(run.took_s, 1),
                        "calls_through_shim": run.shim_calls,
                        "handovers": run.handovers,
                    }
                    for run in (one.direct, one.shim)
                },
            }
            for one in rounds
        ],
    }
