# SPDX-License-Identifier: Apache-2.0
"""`podferry network`: what this node does with moved pods' packets, and taking it off."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import click
import msgspec

from shim.cli.output import output_option, print_json
from shim.errors import PodferryError, Refused


@click.group()
def network() -> None:
    """Show and take off what this node does with the packets of pods that have moved.

    \b
    Exit status:
      0  done; each command says more
    """


@network.command("list")
@output_option
def list_(output: str) -> None:
    """Show moved addresses and where their packets go, and the holds of pods.

    \b
    Exit status:
      0  always
    """
    from shim.network import flip, ipam
    from shim.network.hold import Hold

    pointed = flip.listed()
    holds = []
    for hold in Hold.find_all():
        with hold:
            complete = hold.is_complete
            holds.append({"hold": hold.hold_id, "phase": hold.phase.name if complete else "?"})
    kept = ipam.reserved()
    if output == "json":
        print_json({"moved": msgspec.to_builtins(pointed), "holds": holds, "kept_addresses": kept})
        return
    for one in pointed:
        way = "tunnel to" if one.tunnel else "via"
        click.echo(
            f"{one.address}  {way} {one.next_hop} through {one.device}  epoch {one.epoch}"
            f"  {one.packets} packets"
        )
    for each in holds:
        click.echo(f"hold {each['hold']}  {each['phase']}")
    for address in kept:
        click.echo(f"{address}  kept from other pods")


@network.command()
@click.option("--holds", is_flag=True, help="Also the holds, of sleeping pods too.")
def clear(holds: bool) -> None:
    """Take everything off that reroutes packets on this node, and say what it was.

    Connections of pods that have moved away from here end, if their packets still come this way.
    With --holds also the holds go: what they keep is delivered, and a sleeping pod, which nothing
    answers for any more, resets its clients.

    \b
    Exit status:
      0  everything is off
      1  something could not be taken off, and it is said what
    """
    from shim.network import flip, ipam
    from shim.network.hold import Hold

    gone = flip.remove_all()
    for address in ipam.reserved():
        ipam.release(ipaddress.ip_address(address))
        gone.append(f"reservation of {address}")
    failed = []
    for hold in Hold.find_all() if holds else []:
        try:
            hold.remove()
            gone.append(f"hold {hold.hold_id}")
        except PodferryError as error:
            failed.append(f"hold {hold.hold_id}: {error}")
    for line in gone or ["nothing to take off"]:
        click.echo(line)
    if failed:
        raise Refused("; ".join(failed), where=str(Path("/sys/fs/bpf/podferry")))
