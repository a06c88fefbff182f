# SPDX-License-Identifier: Apache-2.0
"""`podferry evacuate`: moves all pods of this node away."""

from __future__ import annotations

import concurrent.futures
import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any

import click

from cri_proto import control_pb2 as pb
from shim.cli.client import service
from shim.cli.migrate import TIMEOUT_S
from shim.cli.output import output_option, print_json
from shim.errors import PodferryError

INCOMPLETE = 3


@click.command()
@click.option("--to", "nodes", required=True, multiple=True, help="A target; may be given often.")
@click.option(
    "--at-once", type=click.IntRange(1, 64), default=2, show_default=True,
    help="How many pods move at the same time.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Say for each pod whether it could; touch nothing.")
@output_option
@click.pass_obj
def evacuate(
    config: Path | None, nodes: tuple[str, ...], at_once: int, dry_run: bool, output: str
) -> None:
    """Move every managed pod of this node to the nodes named by --to, in turn.

    The smallest pods go first: more of them are away if time runs out. A pod that cannot move
    runs on here, and the reason is told.

    \b
    Exit status:
      0  all have moved (or could)
      3  some run on here; each with its reason
    """
    with service(config) as stub:
        listed = stub.Pods(pb.PodsRequest(), timeout=10.0).pods
    going = sorted(
        (one for one in listed if one.managed and one.state == "running"),
        key=lambda one: int(one.memory_bytes),
    )
    began = time.monotonic()
    targets = itertools.cycle(nodes)
    with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        jobs = [
            pool.submit(_move, config, one.pod, one.sandbox_id, next(targets), dry_run)
            for one in going
        ]
        results = []
        for job in concurrent.futures.as_completed(jobs):
            results.append(job.result())
            if output == "table":
                click.echo(f"{time.monotonic() - began:8.2f} s  {results[-1]['text']}")
    if output == "json":
        print_json(results)
    elif not results:
        click.echo("no pod of this node can be moved: none is managed and running")
    sys.exit(0 if all(one["moved"] for one in results) else INCOMPLETE)


def _move(config: Path | None, pod: str, sandbox_id: str, node: str, dry: bool) -> dict[str, Any]:
    request = pb.MigrateRequest(pod=sandbox_id, node=node, dry_run=dry)
    result: dict[str, Any] = {}
    try:
        with service(config) as stub:
            for one in stub.Migrate(request, timeout=TIMEOUT_S):
                result = json.loads(one.result) if one.result else result
    except PodferryError as error:
        text = f"{pod} runs on here: {error}"
        return {"pod": pod, "node": node, "moved": False, "reason": str(error), "text": text}
    frozen = f", stood still for {result['frozen_ms']:.0f} ms" if "frozen_ms" in result else ""
    text = f"{pod} -> {node}{frozen}"
    return {"pod": pod, "node": node, "moved": True, "result": result, "text": text}
