# SPDX-License-Identifier: Apache-2.0
"""`podferry migrate`, `migrations`, `abort` and `resolve`: pods that move."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click

from cri_proto import control_pb2 as pb
from shim.cli.client import service
from shim.cli.output import output_option, print_json, size, span

TIMEOUT_S = 3600.0


@click.command()
@click.argument("pod")
@click.option("--to", "node", required=True, help="The node that it goes to, as [peers] names it.")
@click.option("--dry-run", is_flag=True, help="Say whether it could; touch nothing.")
@click.option(
    "--claim",
    is_flag=True,
    help="Wait for a kubelet on that node to make the replacement: a pod with the same labels, or "
    "annotated podferry.dev/migration. Without it podferry makes the replacement itself.",
)
@output_option
@click.pass_obj
def migrate(
    config: Path | None, pod: str, node: str, dry_run: bool, claim: bool, output: str
) -> None:
    """Move POD to another node; its clients keep their connections.

    POD is namespace/name, a name, or the start of its sandbox's id. Its memory and files are copied
    while it runs; then it stands still for some tens of milliseconds, and goes on there. Packets
    wait meanwhile. If anything fails before the last moment it runs on here.

    \b
    Exit status:
      0  it runs there (or could, with --dry-run)
      1  it runs on here; why and what to do are told
    """
    request = pb.MigrateRequest(pod=pod, node=node, dry_run=dry_run, claim=claim)
    result: dict[str, Any] = {}
    with service(config) as stub:
        for one in stub.Migrate(request, timeout=TIMEOUT_S):
            if one.result:
                result = json.loads(one.result)
            if output == "table" and not one.result:
                click.echo(f"{one.at_s:8.3f} s  {one.phase:<9} {one.text}")
    if output == "json":
        print_json(result)
    elif dry_run:
        _show_plan(result)
    else:
        _show_result(result)


def _show_plan(plan: dict[str, Any]) -> None:
    click.echo(f"{plan['pod']} can move to {plan['node']}")
    click.echo(f"  memory to copy     {size(plan['resident_bytes'])}")
    click.echo(f"  addresses kept     {', '.join(plan['addresses']) or 'none'}")
    for note in plan["notes"]:
        click.echo(f"  note: {note}")


def _show_result(result: dict[str, Any]) -> None:
    click.echo(f"{result['pod']} runs on {result['node']}")
    result["go_ms"] = result["commit_ms"] + result["flip_ms"] + result["wait_ms"]
    for label, key in (
        ("stood still", "frozen_ms"),
        ("  dump", "dump_ms"),
        ("  last pages and files", "send_ms"),
        ("  restore", "stage_ms"),
        ("  commit and resume", "go_ms"),
        ("packets were held", "held_ms"),
    ):
        click.echo(f"  {label:<24}{result[key]:8.1f} ms")
    copied = size(result["copied_bytes"])
    click.echo(f"  copied ahead            {copied} in {result['rounds']} rounds")
    click.echo(f"  sent in the freeze      {size(result['last_bytes'])}")


@click.command()
@output_option
@click.pass_obj
def migrations(config: Path | None, output: str) -> None:
    """List pods that leave this node, have left it, come to it and have come.

    \b
    Steps of a pod that leaves:
      planned, copying  it runs here
      freezing          it stands still, or is about to
      gave up           in doubt until the other node answers; see `podferry resolve`
      departed, settled it runs there
      abandoned         it runs here; the reason is told
    Of one that comes:
      offered, prepared, staged   it does not run here yet
      resumed                     it runs here
      dropped                     it never ran here in this move

    \b
    Exit status:
      0  listed
      1  the service does not answer
    """
    with service(config) as stub:
        answer = stub.Migrations(pb.MigrationsRequest(), timeout=10.0)
    if output == "json":
        print_json([_as_dict(one) for one in answer.moves])
        return
    if not answer.moves:
        click.echo("no pod has moved")
        return
    click.echo(f"{'MOVE':<14}{'POD':<32}{'':<5}{'NODE':<16}{'STEP':<11}{'AGO':<12}REASON")
    for one in answer.moves:
        way = "to" if one.direction == "out" else "from"
        ago = span(max(0.0, time.time() - one.since_s))
        click.echo(
            f"{one.move:<14}{one.pod:<32}{way:<5}{one.node:<16}{one.step:<11}{ago:<12}{one.reason}"
        )


def _as_dict(one: Any) -> dict[str, Any]:
    return {
        "move": one.move,
        "pod": one.pod,
        "direction": one.direction,
        "node": one.node,
        "step": one.step,
        "epoch": one.epoch,
        "lineage": one.lineage,
        "since_s": one.since_s,
        "reason": one.reason,
        "figures": json.loads(one.figures) if one.figures else None,
    }


@click.command()
@click.argument("move")
@click.pass_obj
def abort(config: Path | None, move: str) -> None:
    """Stop MOVE, an id that `podferry migrations` shows; its pod runs on here.

    Once the pod stands still a move is over within a second, one way or the other, and cannot be
    stopped.

    \b
    Exit status:
      0  it will stop
      1  there is no such move, or it is too late; told which
    """
    with service(config) as stub:
        stub.Abort(pb.AbortRequest(move=move), timeout=10.0)
    click.echo("it will stop after the round that is under way; the pod runs on here")


@click.command()
@click.argument("move")
@click.option(
    "--runs",
    type=click.Choice(["here", "there"]),
    required=True,
    help="Where the pod is to run, as seen from this node.",
)
@click.pass_obj
def resolve(config: Path | None, move: str, runs: str) -> None:
    """Decide MOVE, which is in doubt, when the other node is gone for good.

    \b
    Between the source's record "gave up" and the target's "resumed" only the other node knows
    whether the pod runs there. If it is lost, nobody can know but you: say "here" on one node only,
    and only if the other one will not come back with this pod. While it answers, it decides, and
    this command is refused.

    \b
    Exit status:
      0  decided
      1  it is not in doubt, or the other node answers; told which
    """
    with service(config) as stub:
        answer = stub.Resolve(pb.ResolveRequest(move=move, runs=runs), timeout=30.0)
    click.echo(f"it is {answer.step}")
