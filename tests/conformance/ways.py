# SPDX-License-Identifier: Apache-2.0
"""Says which ways critest takes to a node's containers, and puts in place what each one needs."""

from __future__ import annotations

from dataclasses import dataclass

from tests.testbed import containerd, front, service
from tests.testbed.node import Node


@dataclass(frozen=True)
class Way:
    """One way.

    Attributes:
        name: its name in figures and files.
        title: the same for eyes.
        socket: the CRI socket, as a path of the node.
        through_shim: whether that is podferry's.
        monitored: whether podferry-runtime stands before runc, so that containers have monitors.
    """

    name: str
    title: str
    socket: str
    through_shim: bool = True
    monitored: bool = False


DIRECT = Way("direct", "directly", containerd.SOCKET, through_shim=False)
SHIM = Way("shim", "through podferry", service.SOCKET)
# What a node has after `podferry install --containerd-runtime`: both parts together.
MONITOR = Way("monitor", "with the container monitor", service.SOCKET, monitored=True)


def chosen(*, monitor: bool) -> tuple[Way, ...]:
    """The ways of a round; the first one is what the others are measured by."""
    return (DIRECT, SHIM, MONITOR) if monitor else (DIRECT, SHIM)


def in_turn(ways: tuple[Way, ...], number: int) -> tuple[Way, ...]:
    """The order of a round: each is first in turn, so that none always finds the warmer node."""
    first = number % len(ways)
    return ways[first:] + ways[:first]


def prepare(node: Node, shim: service.Shim, way: Way) -> None:
    """Puts podferry-runtime before runc, or takes it away; restarts containerd if that is a change.

    No container may be there.

    Raises:
        NodeFailed: containerd does not come back, or does not answer through podferry.
    """
    if way.monitored:
        front.install(node)
    else:
        front.uninstall(node)
    shim.wait_ready()
