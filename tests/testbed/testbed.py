# SPDX-License-Identifier: Apache-2.0
"""Puts the pieces together: an engine, the image, a wire and so many nodes that know each other."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from tests.testbed import engine, image, network, run
from tests.testbed.node import Node
from tests.testbed.process import Boot


@contextlib.contextmanager
def nodes(count: int, boot: Boot = "plain") -> Iterator[list[Node]]:
    """So many nodes on one wire, each with routes to the others' pods; nothing is left behind.

    Raises:
        EngineMissing: no Docker engine can be had here.
        ImageFailed: the node image cannot be built here.
        NodeFailed: a node does not come up.
    """
    client = engine.ensure()
    tag = image.ensure(client)
    run.remove_leftovers(client, ours=False)
    with contextlib.ExitStack() as stack:
        stack.callback(client.close)
        wire = network.make_wire()
        stack.callback(wire.remove)
        made = [Node(client, tag, wire, index, boot) for index in range(count)]
        for node in made:
            stack.callback(node.stop)
        with ThreadPoolExecutor(max_workers=max(1, count)) as pool:
            list(pool.map(Node.start, made))
        for node in made:
            for other in made:
                if other is not node:
                    node.route(other)
        yield made
