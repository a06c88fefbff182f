# SPDX-License-Identifier: Apache-2.0
"""The table of flows: what becomes of each kind, from the two tuples of its entry."""

from __future__ import annotations

import msgspec
import pytest

from shim.core.flows import Entry, Fate, Flow, Tuple, judge, told

POD, NODE, CLIENT, SERVICE, BACKEND = "10.1.0.5", "10.9.0.1", "192.0.2.7", "10.96.0.1", "10.2.0.9"


def entry(original: tuple[str, str], reply: tuple[str, str]) -> Entry:
    """Ports say which end it is: the first sender's is 40000."""
    return Entry(
        protocol=6,
        original=Tuple(original[0], 40000, original[1], 80),
        reply=Tuple(reply[0], 80, reply[1], 40000),
        timeout_s=100,
    )


@pytest.mark.parametrize(
    ("what", "seen", "fate", "plain"),
    [
        ("direct client", entry((CLIENT, POD), (POD, CLIENT)), Fate.KEPT, True),
        ("to a peer", entry((POD, CLIENT), (CLIENT, POD)), Fate.KEPT, True),
        ("to a Service", entry((POD, SERVICE), (BACKEND, POD)), Fate.KEPT, False),
        ("masqueraded", entry((POD, CLIENT), (CLIENT, NODE)), Fate.ANCHORED, True),
        ("node port, Local", entry((CLIENT, NODE), (POD, CLIENT)), Fate.ANCHORED, True),
        ("node port, Cluster", entry((CLIENT, NODE), (POD, NODE)), Fate.ANCHORED, True),
        ("to itself", entry((POD, SERVICE), (POD, POD)), Fate.LOST, False),
    ],
)
def test_each_kind_has_its_fate(what: str, seen: Entry, fate: Fate, plain: bool) -> None:
    flow = judge(seen, [POD], NODE)
    assert flow is not None, what
    assert flow.fate is fate
    assert flow.outgoing.source == POD
    assert flow.anchor == (NODE if fate is Fate.ANCHORED else "")
    rewritten = flow.entry.rewrites_source or flow.entry.rewrites_destination
    assert rewritten is not plain
    assert bool(told([flow])) is (fate is not Fate.KEPT)
    assert msgspec.json.decode(msgspec.json.encode(flow), type=Flow) == flow


def test_anothers_flow_is_none_of_ours() -> None:
    assert judge(entry((CLIENT, BACKEND), (BACKEND, CLIENT)), [POD], NODE) is None
