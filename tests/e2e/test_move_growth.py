# SPDX-License-Identifier: Apache-2.0
"""Thirty moves of one pod to and fro leave nothing that grows: memory, files, network, BPF."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator

import pytest

from tests.testbed.moving import MovingNode, eventually
from tests.workloads import start
from tests.workloads.start import REDIS

WARM_UP = 14
MOVES = 44
# The allocator's arenas fill slowly. 30 moves that each kept the few MiB of their pages or images
# would be far above it, and so would 140 KiB a move.
RSS_TOLERANCE_KIB = 4096
# A connection to the other node may just be made anew.
DESCRIPTOR_TOLERANCE = 2
SAMPLES = 20
SAMPLE_S = 0.25

# What is counted on a node, by the script that prints one number.
COUNTS = {
    "network namespaces": "ls /run/netns | wc -l",
    "network interfaces": "ip -o link show | wc -l",
    "neighbours that are written": "ip neigh show nud permanent | wc -l",
    "routes": "ip route show table all | wc -l",
    "routes of IPv6": "ip -6 route show table all | wc -l",
    "rules of routing": "{ ip rule show; ip -6 rule show; } | wc -l",
    "rules of nftables": "nft list ruleset | wc -l",
    # Maps and programs are told for the whole machine: only what is pinned or attached is ours.
    "pins of BPF": "find /sys/fs/bpf -type f | wc -l",
    "directories of pins": "find /sys/fs/bpf -type d | wc -l",
    "programs attached": "bpftool -j net show | tr ',' '\\n' | grep -c devname; true",
    "mounts": "wc -l < /proc/self/mounts",
    "processes": "ls -d /proc/[0-9]* | wc -l",
    "files in /run/podferry": "find /run/podferry | wc -l",
    "files in /var/lib/podferry": "find /var/lib/podferry -not -name '*.log' | wc -l",
    "logs of moves": "find /var/lib/podferry -name '*.log' | wc -l",
    "reserved addresses": "find /var/lib/cni -type f | wc -l",
}
OF_THE_SERVICE = {
    "descriptors": "ls /proc/PID/fd | wc -l",
    "descriptors of BPF": "ls -l /proc/PID/fd | grep -c bpf; true",
    "resident KiB": "sed -n 's/^VmRSS:[^0-9]*\\([0-9]*\\) kB/\\1/p' /proc/PID/status",
}
TOLERANCES = {"resident KiB": RSS_TOLERANCE_KIB, "descriptors": DESCRIPTOR_TOLERANCE}
NAMES = (*COUNTS, *OF_THE_SERVICE)
Figures = dict[tuple[str, str], int]


def counted(node: MovingNode) -> dict[str, int]:
    """One look at a node."""
    scripts = [*COUNTS.values(), *OF_THE_SERVICE.values()]
    text = "\n".join(scripts).replace("PID", str(node.shim.pid))
    numbers = node.node.exec(["sh", "-c", text]).text.split()
    return {name: int(number) for name, number in zip(NAMES, numbers, strict=True)}


def calm(*nodes: MovingNode) -> Figures:
    """The least of several looks: what is on its way out or only looks itself is not counted."""
    least: Figures = {}
    for _ in range(SAMPLES):
        for node in nodes:
            for name, number in counted(node).items():
                key = (node.name, name)
                least[key] = min(number, least.get(key, number))
        time.sleep(SAMPLE_S)
    return least


def to_and_fro(here: MovingNode, there: MovingNode, uid: str) -> None:
    """A move there and a move back; as kubelet does, each node removes the sandbox that is left."""
    for source, target in ((here, there), (there, here)):
        eventually(functools.partial(source.sandbox_of, uid), source)
        left = source.sandbox_of(uid)
        source.migrate_sandbox(left, target)
        source.remove_sandbox(left)


@pytest.fixture(scope="module")
def figures(movers: list[MovingNode]) -> Iterator[tuple[Figures, Figures]]:
    """What was counted after the warm-up and after all the moves, under a client that is well."""
    first, second = movers
    redis = start.start(first.kubelet, REDIS)
    uid = redis.pod.spec.uid
    try:
        with redis.client() as client:
            client.ask(5)
            client.start(20)
            for _ in range(WARM_UP // 2):
                to_and_fro(first, second, uid)
            before = calm(first, second)
            for _ in range((MOVES - WARM_UP) // 2):
                to_and_fro(first, second, uid)
            after = calm(first, second)
            client.stop()
            client.ask(5)
            felt = client.finish()
            assert felt.is_well, felt
        yield before, after
    finally:
        for one in movers:
            one.remove_all()
    eventually(lambda: not [*first.left(), *second.left()], first, second)


@pytest.mark.parametrize("name", NAMES)
def test_moves_leave_nothing_that_grows(figures: tuple[Figures, Figures], name: str) -> None:
    before, after = figures
    tolerance = TOLERANCES.get(name, 0)
    grown = {
        node: (number, after[node, what])
        for (node, what), number in before.items()
        if what == name and after[node, what] > number + tolerance
    }
    assert not grown, f"{name} after {WARM_UP} and after {MOVES} moves: {grown}"
