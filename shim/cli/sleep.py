# SPDX-License-Identifier: Apache-2.0
"""`podferry sleep POD` and `podferry wake POD`."""

from __future__ import annotations

from pathlib import Path

import click

from cri_proto import control_pb2 as pb
from shim.cli.client import service
from shim.cli.output import as_dict, output_option, print_json, size

# A large pod takes as long as its memory takes to be written.
TIMEOUT_S = 300.0


@click.command()
@click.argument("pod")
@output_option
@click.pass_obj
def sleep(config: Path | None, pod: str, output: str) -> None:
    """Put POD to sleep: its processes go, their memory is freed, its connections are kept.

    Kubernetes goes on seeing a running pod. A packet, exec, attach, port-forward or `podferry wake`
    wakes it. If anything stands in the way it runs on, and the reason is told.

    \b
    Exit status:
      0  done
      1  the service does not answer, or it was refused; the reason is told
    """
    with service(config) as stub:
        answer = stub.Sleep(pb.SleepRequest(pod=pod), timeout=TIMEOUT_S)
    if output == "json":
        print_json(as_dict(answer))
        return
    for one in answer.containers:
        click.echo(
            f"{one.name}: asleep after {one.took_ms:.0f} ms, stood still for "
            f"{one.frozen_ms:.1f} ms, image of {size(one.image_bytes)}"
        )


@click.command()
@click.argument("pod")
@output_option
@click.pass_obj
def wake(config: Path | None, pod: str, output: str) -> None:
    """Wake POD and wait until it runs.

    \b
    Exit status:
      0  done
      1  the service does not answer, or it was refused; the reason is told
    """
    with service(config) as stub:
        answer = stub.Wake(pb.WakeRequest(pod=pod), timeout=TIMEOUT_S)
    if output == "json":
        print_json(as_dict(answer))
    elif answer.took_ms:
        click.echo(f"awake after {answer.took_ms:.1f} ms")
    else:
        click.echo("it was awake")
