# SPDX-License-Identifier: Apache-2.0
"""Cuts a node off the wire: whatever comes or goes by its uplink is lost, without a word."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from tests.testbed.moving import MovingNode

UPLINK = "eth0"
TABLE = "inet podferry-test-cut"
# Before everything else of netfilter; routes, rules and neighbours stay.
RULES = "\n".join(
    [f"table {TABLE} {{"]
    + [
        f"chain {hook} {{ type filter hook {hook} priority -400; "
        + " ".join(f'{side} "{UPLINK}" drop;' for side in sides)
        + " }"
        for hook, sides in (
            ("input", ("iifname",)),
            ("forward", ("iifname", "oifname")),
            ("output", ("oifname",)),
        )
    ]
    + ["}"]
)


@contextlib.contextmanager
def cut(node: MovingNode) -> Iterator[None]:
    """For as long as the context lasts."""
    node.node.exec(["nft", "-f", "-"], stdin=RULES.encode())
    try:
        yield
    finally:
        node.node.exec(["nft", "delete", "table", *TABLE.split()])
