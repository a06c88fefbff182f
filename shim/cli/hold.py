# SPDX-License-Identifier: Apache-2.0
"""`podferry hold` and `podferry release`: make calls about a pod wait, and let them go."""

from __future__ import annotations

from pathlib import Path

import click

from cri_proto import control_pb2 as pb
from shim.cli.client import TIMEOUT_S, service


@click.command()
@click.argument("pod", metavar="NAMESPACE/NAME")
@click.option("--container", default="", help="Only calls about this container of the pod.")
@click.option(
    "--call",
    "calls",
    multiple=True,
    default=("StartContainer",),
    show_default=True,
    help="CRI call to hold; may be given several times.",
)
@click.option(
    "--at-most",
    "at_most_s",
    type=float,
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="When the hold ends by itself.",
)
@click.pass_obj
def hold(
    config: Path | None, pod: str, container: str, calls: tuple[str, ...], at_most_s: float
) -> None:
    """Make later CRI calls about a pod wait.

    A held call goes on unchanged when the hold is released or its time is over, and never outlives
    its caller's deadline. Holds do not survive a crash of the service; they survive a handover.
    Prints the hold's id.

    \b
    Exit status:
      0  the hold is made
      1  it was refused, or no service answers
    """
    with service(config) as stub:
        answer = stub.Hold(
            pb.HoldRequest(pod=pod, container=container, methods=calls, at_most_s=at_most_s),
            timeout=TIMEOUT_S,
        )
    click.echo(answer.hold_id)


@click.command()
@click.argument("hold_id", metavar="HOLD")
@click.pass_obj
def release(config: Path | None, hold_id: str) -> None:
    """End a hold and let its calls go. `podferry status` lists holds.

    \b
    Exit status:
      0  the hold has ended
      1  there is no such hold, or no service answers
    """
    with service(config) as stub:
        answer = stub.Release(pb.ReleaseRequest(hold_id=hold_id), timeout=TIMEOUT_S)
    click.echo(f"{answer.released} waiting calls released")
