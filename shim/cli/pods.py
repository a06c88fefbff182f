# SPDX-License-Identifier: Apache-2.0
"""`podferry pods`: the pods of this node, whether they sleep, and what their last wake took."""

from __future__ import annotations

from pathlib import Path

import click

from cri_proto import control_pb2 as pb
from shim.cli.client import service
from shim.cli.output import as_dict, output_option, print_json, size, span

TIMEOUT_S = 30.0


@click.command()
@output_option
@click.pass_obj
def pods(config: Path | None, output: str) -> None:
    """List the pods of this node: state, memory, how long asleep, last wake.

    \b
    Exit status:
      0  done
      1  the service does not answer
    """
    with service(config) as stub:
        answer = stub.Pods(pb.PodsRequest(), timeout=TIMEOUT_S)
    if output == "json":
        print_json(as_dict(answer)["pods"])
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("POD", "STATE", "MEMORY", "ASLEEP FOR", "SLEEPS", "LAST WAKE"):
        table.add_column(heading, no_wrap=heading == "POD")
    for one in answer.pods:
        asleep = one.state == "asleep"
        state = one.state if one.managed else f"{one.state}, cannot sleep"
        memory = f"{size(one.image_bytes)} in its image" if asleep else size(one.memory_bytes)
        woken = f"{one.last_wake_ms:.1f} ms by {one.last_wake_cause}" if one.wakes else "-"
        table.add_row(
            one.pod, state, memory, span(one.asleep_s) if asleep else "-", str(one.sleeps), woken
        )
    Console().print(table)
