# SPDX-License-Identifier: Apache-2.0
"""The testbed by hand: ``python -m tests.testbed engine|build|up|clean|stop``."""

from __future__ import annotations

import contextlib
import signal

import click

from shim.errors import PodferryError
from tests.testbed import engine, image, run, service, testbed


@click.group()
def main() -> None:
    """Sets the testbed up and takes it away; see tests/testbed/README.md."""


@main.command("engine")
def engine_command() -> None:
    """Make sure that a Docker engine answers, and keep it running."""
    version = engine.ensure(keep=True).version()
    click.echo(f"Docker engine {version['Version']}, API {version['ApiVersion']}")


@main.command()
@click.option("--rebuild", is_flag=True, help="Build even if the recipe has not changed.")
def build(rebuild: bool) -> None:
    """Build the node image if its recipe has changed; print its tag."""
    click.echo(image.ensure(engine.ensure(), rebuild=rebuild))


@main.command()
@click.option("--nodes", "count", default=2, show_default=True, help="How many.")
@click.option("--systemd", is_flag=True, help="Boot them with systemd.")
@click.option("--podferry", is_flag=True, help="Install podferry from the tree and start it.")
def up(count: int, systemd: bool, podferry: bool) -> None:
    """Start nodes, say how to get in, and remove them at Ctrl-C."""
    with contextlib.ExitStack() as stack:
        made = stack.enter_context(testbed.nodes(count, "systemd" if systemd else "plain"))
        for node in made:
            if podferry:
                service.install(node)
                stack.enter_context(service.Shim(node))
            shell = " ".join(node.inside.argv(["bash"], {"TERM": "$TERM"}))
            click.echo(f"{node.name}  {node.address}  pods {node.pod_subnet}\n  {shell}")
        click.echo("Ctrl-C removes them.")
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()


@main.command()
@click.option("--images", is_flag=True, help="Also remove the node images.")
def clean(images: bool) -> None:
    """Remove what dead runs have left, and images of old recipes."""
    client = engine.connect()
    if client is None:
        raise click.ClickException("no Docker engine answers, so there is nothing to clean")
    for name in run.remove_leftovers(client, ours=False):
        click.echo(f"removed {name}")
    for name in image.remove_old(client, everything=images):
        click.echo(f"removed image {name}")


@main.command()
def stop() -> None:
    """Stop the engine if the testbed has started it."""
    click.echo("stopped" if engine.stop() else "no engine of ours runs")


if __name__ == "__main__":
    try:
        main()
    except PodferryError as error:
        raise SystemExit(f"testbed: {error}") from None
