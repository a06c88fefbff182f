# SPDX-License-Identifier: Apache-2.0
"""Conformance by others' programs: ``python -m tests.conformance critest|kubelet|crictl``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from shim.errors import PodferryError
from tests.conformance import binary

KEEP = click.option(
    "--keep",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="Directory for reports and logs.",
)


@click.group()
def main() -> None:
    """Runs others' conformance programs against podferry; see docs/conformance.md."""


@main.command("critest")
@click.option("--critest", "path", default="", help="Path of the program; none skips.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--focus", default="", help="Only specs that this regular expression matches.")
@click.option(
    "--handover-every",
    "handover_every_s",
    type=click.FloatRange(0),
    default=0.0,
    metavar="SECONDS",
    help="Replace podferry so often during its runs; 0 for never.",
)
@click.option("--monitor", is_flag=True, help="A third run each: with the container monitor.")
@KEEP
def critest_command(
    path: str, rounds: int, focus: str, handover_every_s: float, monitor: bool, keep: Path | None
) -> None:
    """critest, direct and through podferry: what passes directly must pass through podferry."""
    program = _given(path, "critest", "CRITEST=/path/to/critest")
    from tests.conformance import critest

    options = critest.Options(rounds, focus, handover_every_s, keep, monitor)
    _finish(lambda: critest.main(program, options, click.echo))


@main.command("kubelet")
@click.option("--kubelet", "path", default="", help="Path of the program; none skips.")
@KEEP
def kubelet_command(path: str, keep: Path | None) -> None:
    """A standalone kubelet on podferry's socket: static pods, handovers, crashes, restarts."""
    program = _given(path, "kubelet", "KUBELET=/path/to/kubelet")
    from tests.conformance import kubelet

    _finish(lambda: kubelet.main(program, keep, click.echo))


@main.command("crictl")
@click.option("--crictl", "path", default="", help="Path of the program; none skips.")
def crictl_command(path: str) -> None:
    """crictl's exec, attach, port-forward and events: direct and through podferry."""
    program = _given(path, "crictl", "CRICTL=/path/to/crictl")
    from tests.conformance import crictl

    _finish(lambda: crictl.main(program, click.echo))


def _given(path: str, name: str, variable: str) -> Path:
    program = binary.given(path, name=name)
    if program is None:
        click.echo(f"skipped: no {name} was given ({variable})")
        click.echo(json.dumps({"skipped": f"no {name} was given"}))
        sys.exit(0)
    return program


def _finish(work: Callable[[], tuple[dict[str, Any], bool]]) -> None:
    figures, holds = work()
    click.echo("PASS" if holds else "FAIL")
    click.echo(json.dumps(figures | {"pass": holds}))
    sys.exit(0 if holds else 1)


if __name__ == "__main__":
    try:
        main()
    except PodferryError as error:
        raise SystemExit(f"conformance: {error}") from None
