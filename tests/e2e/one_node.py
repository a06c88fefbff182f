# SPDX-License-Identifier: Apache-2.0
"""Tells on which nodes a moved redis runs, and that its client has noticed nothing."""

from __future__ import annotations

import time

from tests.testbed.moving import MovingNode, eventually
from tests.workloads.asking import Client
from tests.workloads.start import Running

SAMPLES = 20
SAMPLE_S = 0.05


def running(node: MovingNode) -> bool:
    """Whether a redis of the node is at its own code, or in a call that its own code has made.

    One that is held is frozen or traced. One that is staged sleeps in CRIU's restorer, a piece of
    memory that belongs to no file.
    """
    return any(runs(node, pid) for pid in node.processes("redis-server"))


def runs(node: MovingNode, pid: str) -> bool:
    """The same of one process."""
    for _ in range(SAMPLES):
        try:
            state = node.node.read(f"/proc/{pid}/stat").decode().rpartition(")")[2].split()[0]
            frozen = node.node.read(f"/proc/{pid}/wchan").decode()
            call = node.node.read(f"/proc/{pid}/syscall").decode().split()
            maps = node.node.read(f"/proc/{pid}/maps").decode().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            return False
        if state not in "SR" or "refrigerator" in frozen or "ptrace" in frozen:
            return False
        if len(call) > 2:  # not just "running": the last two are stack and program counter
            return any(is_program(line, int(call[-1], 16)) for line in maps)
        time.sleep(SAMPLE_S)
    return True


def is_program(line: str, counter: int) -> bool:
    """Whether a line of /proc/PID/maps is of a file, and the counter in it."""
    first, last = (int(one, 16) for one in line.split()[0].split("-"))
    return first <= counter < last and line.split(maxsplit=5)[-1].startswith("/")


def settled(first: MovingNode, second: MovingNode) -> bool:
    """Whether every move is over on both nodes and one redis runs."""
    ended = {"settled", "abandoned", "resumed", "dropped"}
    moves = [*first.migrations(), *second.migrations()]
    pods = len(first.processes("redis-server")) + len(second.processes("redis-server"))
    return all(one["step"] in ended for one in moves) and pods == 1


def check_alive(client: Client, redis: Running, first: MovingNode, second: MovingNode) -> None:
    """The client goes on over its connection, and a second move works."""
    client.ask(5)
    here, there = (first, second) if first.processes("redis-server") else (second, first)
    eventually(lambda: here.sandbox_of(redis.pod.spec.uid), here)
    here.command("migrate", here.sandbox_of(redis.pod.spec.uid), "--to", there.name)
    client.ask(5)
    felt = client.finish()
    assert felt.is_well, felt
