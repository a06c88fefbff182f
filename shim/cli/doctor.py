# SPDX-License-Identifier: Apache-2.0
"""`podferry doctor`: whether this node has what podferry needs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec
from rich.console import Console

from shim.cli.output import output_option, print_json
from shim.doctor.checks import CHECKS
from shim.doctor.diagnosis import diagnose
from shim.doctor.model import Check, exit_status
from shim.doctor.report import show
from shim.settings import DEFAULT_PATH, load


@click.command()
@output_option
@click.option(
    "--only",
    metavar="ID",
    multiple=True,
    help="Run this check, or all of an area (the word before the dot). May be given many times.",
)
@click.option(
    "--strict",
    is_flag=True,
    help="Also exit with 1 for warnings, and for what only a part of the product needs.",
)
@click.pass_obj
def doctor(config: Path | None, output: str, only: tuple[str, ...], strict: bool) -> None:
    """Find out whether this node has what podferry needs, by trying it.

    Each check uses the thing it is about: it loads our BPF programs, tracks a page that it writes,
    freezes a child of its own, asks the runtime and CRIU. Nothing is changed and nothing is left
    behind, except that the kernel may load a module. A check that crashes or hangs is told as
    unknown, and the others go on. Run it as root in the host's namespaces.

    \b
    States:
      ok       it works
      warning  it works, or works less well, and something can be done
      missing  it is not there or does not work
      unknown  it could not be found out
      skipped  it does not apply to this node

    \b
    Exit status:
      0  all that passthrough, checkpoint and restore need is there
      1  something of it is missing or unknown (--strict: anything is)
      2  the command line is wrong

    \b
    Examples:
      podferry doctor
      podferry doctor --only network --only memory.pipe_size
      podferry doctor --output json | jq '.checks[] | select(.state != "ok")'

    What each check looks at, and why: docs/doctor.md.
    """
    checks = select(CHECKS, only)
    findings = diagnose(checks, load(config or DEFAULT_PATH, required=config is not None))
    status = exit_status(findings, strict=strict)
    if output == "json":
        print_json({"exit_status": status, "checks": msgspec.to_builtins(findings)})
    else:
        show(findings, status, Console())
    sys.exit(status)


def select(checks: Sequence[Check], only: Sequence[str]) -> list[Check]:
    """The checks whose id or area was named; all of them if nothing was.

    Raises:
        click.UsageError: a name is neither.
    """
    known = {check.id for check in checks} | {check.area for check in checks}
    if strangers := [name for name in only if name not in known]:
        listed = ", ".join(sorted(check.id for check in checks))
        raise click.UsageError(f"--only: no check {', '.join(strangers)}; there are: {listed}")
    return [check for check in checks if not only or check.id in only or check.area in only]
