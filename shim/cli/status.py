# SPDX-License-Identifier: Apache-2.0
"""`podferry status`: whether the service runs, serves and is reached, and what it has done."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cri_proto import control_pb2 as pb
from shim.cli.client import TIMEOUT_S, service
from shim.cli.output import as_dict, micros, output_option, print_json, size, span
from shim.errors import Unavailable

if TYPE_CHECKING:
    from shim.installer.state import InstallState


@click.command()
@output_option
@click.pass_obj
def status(config: Path | None, output: str) -> None:
    """Show the service, the runtime behind it, the node's installation, and figures of calls.

    \b
    Exit status:
      0  the service serves and the runtime answers
      1  the service does not answer
      3  the service serves, but the runtime does not answer
    """
    installation = _installation()
    try:
        with service(config) as stub:
            answer = stub.Status(pb.StatusRequest(), timeout=TIMEOUT_S)
    except Unavailable as error:
        if output == "json":
            print_json({"service": None, "installation": asdict(installation), "error": str(error)})
        else:
            _show_installation(installation)
        raise
    if output == "json":
        print_json({"service": as_dict(answer), "installation": asdict(installation), "error": ""})
    else:
        _show(answer)
        _show_installation(installation)
    sys.exit(0 if answer.backend.answers else 3)


def _installation() -> InstallState:
    from shim.installer.state import describe

    return describe(Path("/"))


def _show(answer: pb.StatusResponse) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    backend = answer.backend
    runtime = f"{backend.name} {backend.version}" if backend.answers else f"DOWN: {backend.error}"
    memory = f"{answer.sandboxes} sandboxes, {answer.containers} containers"
    facts = (
        ("service", f"podferry {answer.version}, {answer.phase}, pid {answer.pid}, "
                    f"up {span(answer.uptime_s)}, {size(answer.rss_bytes)}"),
        ("socket", answer.listen),
        ("runtime", f"{runtime} at {answer.runtime}"),
        ("calls", f"{answer.calls_total} since start, {answer.calls_in_flight} under way"),
        ("memory", memory if answer.registry_complete else f"{memory} (not yet complete)"),
    )  # fmt: skip
    for name, text in facts:
        console.print(f"{name:<9}{text}", highlight=False, markup=False, soft_wrap=True)
    if answer.methods:
        table = Table(box=None, pad_edge=False)
        table.add_column("METHOD")
        for column in ("CALLS", "ERRORS", "OURS p50", "p99", "RUNTIME p50", "p99"):
            table.add_column(column, justify="right")
        for m in sorted(answer.methods, key=lambda m: -m.calls):
            table.add_row(
                m.method, str(m.calls), str(m.errors), micros(m.ours_p50_us),
                micros(m.ours_p99_us), micros(m.backend_p50_us), micros(m.backend_p99_us),
            )  # fmt: skip
        console.print()
        console.print(table)
    for hold in answer.holds:
        whom = f"{hold.pod}/{hold.container}" if hold.container else hold.pod
        click.echo(
            f"hold {hold.hold_id}: {', '.join(hold.methods)} of {whom}, "
            f"{hold.waiting} waiting, ends in {span(hold.remaining_s)}"
        )


def _show_installation(state: InstallState) -> None:
    click.echo()
    if state.version is None:
        click.echo("installed  no (`podferry install --dry-run` shows what it would do)")
    else:
        click.echo(f"installed  podferry {state.version}, {state.progress}")
    ours = "ours" if state.points_at_us else "not ours"
    where = f" by {state.endpoint_place} {state.endpoint_path}".rstrip()
    if state.endpoint:
        click.echo(f"kubelet    uses {state.endpoint} ({ours}),{where}")
    if state.restart_pending:
        click.echo(f"kubelet    runs with older files: systemctl restart {state.kubelet_unit}")
    for problem in state.problems:
        click.echo(f"note       {problem}")
