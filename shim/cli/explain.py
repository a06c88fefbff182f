# SPDX-License-Identifier: Apache-2.0
"""`podferry explain POD`: whether a pod can sleep and move, what blocks it, what it would cost.

It reads the live processes on this node itself: it works without the service, needs root, and
stops nothing.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from shim.cli.output import output_option, print_json, size
from shim.errors import NotFound, Refused

if TYPE_CHECKING:
    from shim.checkpoint.pods import PodHere
    from shim.core.preflight import Verdict

CANNOT = 3


@click.command()
@click.argument("pod")
@output_option
def explain(pod: str, output: str) -> None:
    """Say whether POD can sleep and move, and if not, why and what to change.

    POD is namespace/name, a name, or the start of its sandbox's id. Nothing is stopped.

    \b
    Exit status:
      0  it can sleep
      1  there is no such pod, or it cannot be looked at
      3  it cannot sleep; the reasons are told
    """
    from shim.checkpoint import pods

    if os.geteuid() != 0:
        raise Refused("the processes of a pod can be looked at by root only")
    found = pods.find(pod)
    verdicts = _judged(found)
    if output == "json":
        print_json(_document(found, verdicts))
    else:
        _show(found, verdicts)
    sys.exit(0 if all(one.can_sleep for one in verdicts.values()) else CANNOT)


def _judged(pod: PodHere) -> dict[str, Verdict]:
    from shim.checkpoint import anatomy, survey
    from shim.core import preflight

    verdicts = {}
    for name, container_id in sorted(pod.containers.items()):
        try:
            seen = anatomy.read(container_id)
        except NotFound:
            continue  # an init container that has finished, or one that is being restarted
        verdicts[name] = preflight.judge(survey.read(seen))
    if not verdicts:
        raise NotFound("none of its containers runs", where=f"pod {pod.label}")
    return verdicts


def _document(pod: PodHere, verdicts: dict[str, Verdict]) -> dict[str, Any]:
    return {
        "pod": pod.label,
        "uid": pod.uid,
        "can_sleep": all(one.can_sleep for one in verdicts.values()),
        "can_move": all(one.can_move for one in verdicts.values()),
        # The containers of a pod are stopped together and dumped one after the other.
        "expected_freeze_ms": round(sum(one.expected_freeze_ms for one in verdicts.values()), 1),
        "resident_bytes": sum(one.resident_bytes for one in verdicts.values()),
        "cpu_label": next(iter(verdicts.values())).cpu_label,
        "containers": [
            {
                "name": name,
                "can_sleep": one.can_sleep,
                "can_move": one.can_move,
                "expected_freeze_ms": one.expected_freeze_ms,
                "resident_bytes": one.resident_bytes,
                "processes": one.processes,
                "threads": one.threads,
                "connections": one.connections,
                "findings": [
                    {
                        "cause": finding.cause.name,
                        "blocks": finding.blocks.value,
                        "where": finding.where,
                        "reason": finding.cause.reason,
                        "remedy": finding.cause.remedy,
                    }
                    for finding in one.findings
                ],
            }
            for name, one in verdicts.items()
        ],
    }


def _show(pod: PodHere, verdicts: dict[str, Verdict]) -> None:
    whole = _document(pod, verdicts)
    sleeps = "can sleep" if whole["can_sleep"] else "cannot sleep"
    moves = "can move" if whole["can_move"] else "cannot move"
    click.echo(f"pod {pod.label}: {sleeps}, {moves}")
    click.echo(
        f"  it would stand still for about {whole['expected_freeze_ms']:.0f} ms "
        f"and free up to {size(whole['resident_bytes'])}"
    )
    for name, one in verdicts.items():
        click.echo(
            f"  container {name}: {one.processes} processes, {one.threads} threads, "
            f"{size(one.resident_bytes)}, {one.connections} TCP sockets (kept)"
        )
        for finding in one.findings:
            click.echo(f"    {finding.cause.name}: {finding.cause.reason}")
            click.echo(f"      found at: {finding.where}")
            click.echo(f"      to do:    {finding.cause.remedy}")
