# SPDX-License-Identifier: Apache-2.0
"""The `podferry` command: its groups, and the one place where an error becomes an exit status."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import click

from shim.errors import PodferryError
from shim.settings import DEFAULT_PATH

# Where each command lives. Imported only when called: `podferry serve` must start fast and small,
# and must not carry what only the terminal needs.
COMMANDS = {
    "serve": "shim.cli.serve",
    "handover": "shim.cli.handover",
    "status": "shim.cli.status",
    "top": "shim.cli.top",
    "hold": "shim.cli.hold",
    "release": "shim.cli.hold",
    "pods": "shim.cli.pods",
    "explain": "shim.cli.explain",
    "sleep": "shim.cli.sleep",
    "wake": "shim.cli.sleep",
    "migrate": "shim.cli.migrate",
    "migrations": "shim.cli.migrate",
    "abort": "shim.cli.migrate",
    "resolve": "shim.cli.migrate",
    "evacuate": "shim.cli.evacuate",
    "pki": "shim.cli.pki",
    "network": "shim.cli.network",
    "doctor": "shim.cli.doctor",
    "install": "shim.cli.install",
    "uninstall": "shim.cli.install",
}


class LazyGroup(click.Group):
    """A group that imports a command's module when the command is named."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names every command, in the order of COMMANDS."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports the module of one command; None for a name that is no command."""
        module_name = COMMANDS.get(cmd_name)
        if module_name is None:
            return None
        command: click.Command = getattr(importlib.import_module(module_name), cmd_name)
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help=f"Settings file. Default: {DEFAULT_PATH}, or built-in values where it is absent.",
)
@click.version_option(package_name="podferry")
@click.pass_context
def cli(ctx: click.Context, config: Path | None) -> None:
    """Move running pods between nodes, and put idle ones to sleep.

    podferry stands between kubelet and containerd on the CRI socket of a node.
    Start with `podferry doctor`, then `podferry install --dry-run`.
    """
    ctx.obj = config


def main() -> None:
    """Entry point of the console script; errors of our tree are one line and exit status 1."""
    try:
        cli(prog_name="podferry")
    except PodferryError as error:
        click.echo(f"podferry: {' '.join(str(error).split())}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
