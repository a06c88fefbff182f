# SPDX-License-Identifier: Apache-2.0
"""`podferry handover`: replaces the running service by the program on disk, losing no call."""

from __future__ import annotations

from pathlib import Path

import click

from cri_proto import control_pb2 as pb
from shim.cli.client import service


@click.command()
@click.option(
    "--at-most",
    "at_most_s",
    type=click.FloatRange(1, 300),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="How long the successor may take until it serves.",
)
@click.pass_obj
def handover(config: Path | None, at_most_s: float) -> None:
    """Replace the running service by the program and settings on disk, without losing a call.

    The running service starts its successor, which takes the socket over when it is ready; the
    old process finishes its calls and ends. If the successor does not come to serve, the old one
    serves on. This is what `systemctl reload podferry` runs; use it after an upgrade and after a
    change of settings.

    \b
    Exit status:
      0  the successor serves
      1  it does not, and the old process serves on; or no service answers
    """
    click.echo("starting the successor ...", err=True)
    with service(config) as stub:
        answer = stub.StartSuccessor(
            pb.StartSuccessorRequest(at_most_s=at_most_s), timeout=at_most_s + 5
        )
    click.echo(f"process {answer.successor_pid} serves; the old one ends with its last call")
