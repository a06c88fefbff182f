# SPDX-License-Identifier: Apache-2.0
"""`podferry pki`: the cluster's own CA and the certificates by which nodes know each other."""

from __future__ import annotations

from pathlib import Path

import click

DIRECTORY = click.Path(path_type=Path, file_okay=False)


@click.group()
def pki() -> None:
    """Make the certificates by which nodes know each other when pods move.

    \b
    Once, on a machine that you trust:
      podferry pki init /root/podferry-ca
    For each node; then copy the directory to that node's /etc/podferry/pki:
      podferry pki issue node-a --authority /root/podferry-ca --to out/node-a

    The CA's key is needed only to issue; keep it off the nodes. A cluster's own CA does as well:
    see [peers] in docs/settings.md.

    \b
    Exit status:
      0  made
      1  refused; nothing was changed, and the reason is told
    """


@pki.command()
@click.argument("directory", type=DIRECTORY)
def init(directory: Path) -> None:
    """Make a CA in DIRECTORY: ca.crt and ca.key."""
    from shim.peers import authority

    authority.make_authority(directory)
    click.echo(f"{directory}/ca.crt and ca.key; keep the key off the nodes")


@pki.command()
@click.argument("node")
@click.option("--authority", "ca", type=DIRECTORY, required=True, help="Directory of the CA.")
@click.option("--to", "target", type=DIRECTORY, required=True, help="Where the files go.")
@click.option(
    "--days",
    type=click.IntRange(1, 3650),
    default=365,
    show_default=True,
    help="How long it is good.",
)
def issue(node: str, ca: Path, target: Path, days: int) -> None:
    """Make the certificate of NODE: node.crt, node.key and ca.crt.

    NODE is the name by which other nodes' settings know it.
    """
    from shim.peers import authority

    authority.issue(ca, node, target, days)
    click.echo(f"{target}: put its files into /etc/podferry/pki of {node}")
