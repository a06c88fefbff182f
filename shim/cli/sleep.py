# SPDX-License-Identifier: Apache-2.0
"""`podferry sleep POD` and `podferry wake POD`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import grpc

from cri_proto import control_pb2 as pb
from shim.cli.client import service
from shim.cli.output import as_dict, output_option, print_json, progress, size

# A large pod takes as long as its memory takes to be written.
TIMEOUT_S = 300.0
POLL_S = 0.5


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
        call = stub.Sleep.future(pb.SleepRequest(pod=pod), timeout=TIMEOUT_S)
        with progress(f"{pod} falls asleep") as say:
            while not _ended(call):
                say(_written(stub, pod))
        answer = call.result()
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
    with service(config) as stub, progress(f"{pod} wakes"):
        answer = stub.Wake(pb.WakeRequest(pod=pod), timeout=TIMEOUT_S)
    if output == "json":
        print_json(as_dict(answer))
    elif answer.took_ms:
        click.echo(f"awake after {answer.took_ms:.1f} ms")
    else:
        click.echo("it was awake")


def _ended(call: Any) -> bool:
    try:
        call.exception(timeout=POLL_S)
    except grpc.FutureTimeoutError:
        return False
    return True


def _written(stub: Any, pod: str) -> str:
    """How much of the image there is, while it is written."""
    try:
        listed = stub.Pods(pb.PodsRequest(), timeout=TIMEOUT_S).pods
    except grpc.RpcError:
        return ""
    for one in listed:
        if one.state == "falling asleep" and pod in (one.pod, one.pod.partition("/")[2]):
            return f"{size(one.image_bytes)} written"
    return ""
