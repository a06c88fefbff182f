# SPDX-License-Identifier: Apache-2.0
"""``python -m tests.bench.migrate.transfer``: how fast memory goes to another node's store.

1 GiB of incompressible memory of a process on one node into the page store of another one, over
the veth link between them: TLS, client certificates, checksums. Beside it, by turns in one run,
iperf3 with one stream in the clear. The last line on stdout is one JSON object; QUICK=1 takes less
memory and fewer rounds.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shim.memory.stream import make_token
from tests.bench.figures import machine, spread
from tests.memory.fix_stream import Authority
from tests.testbed import testbed
from tests.testbed.node import Node

QUICK = bool(os.environ.get("QUICK"))
MEBIBYTES = 256 if QUICK else 1024
ROUNDS = 4 if QUICK else 10
LANES = int(os.environ.get("LANES", "2"))
IPERF_S = "2"
IPERF_PORT = "5999"
END_S = 30.0
BAR_RATIO = 0.7
SHARED_MEMORY = Path("/dev/shm")


class End:
    """A process in a node's network that answers each line with an object."""

    def __init__(self, node: Node, *words: str) -> None:
        argv = ["nsenter", f"--net=/proc/{node.inside.pid}/ns/net", "--", sys.executable]
        argv += ["-m", "tests.bench.migrate.stream_end", *words]
        self._process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.first = self._answer()

    def ask(self) -> dict[str, float]:
        """The next object."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._answer()

    def end(self) -> None:
        """Lets it end."""
        self._process.communicate(timeout=END_S)

    def _answer(self) -> dict[str, float]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "an end of the stream has ended"
        answer: dict[str, float] = json.loads(line)
        return answer


@contextmanager
def both_ends(source: Node, target: Node) -> Iterator[tuple[End, End]]:
    """Sender and receiver, connected."""
    token = make_token().hex()
    with tempfile.TemporaryDirectory(dir=SHARED_MEMORY) as directory:
        authority = Authority(Path(directory), "authority")
        for name in ("source", "target"):
            authority.issue(name)
        store, quota = f"{directory}/store", str(MEBIBYTES << 21)
        receiver = End(target, "receive", store, target.address, directory, token, quota)
        try:
            port = str(int(receiver.first["port"]))
            words = (target.address, port, directory, token, str(LANES), str(MEBIBYTES))
            sender = End(source, "send", *words)
            try:
                yield sender, receiver
            finally:
                sender.end()
        finally:
            receiver.end()


@contextmanager
def iperf_server(node: Node) -> Iterator[None]:
    """iperf3 on a node, for as long as the context lasts."""
    server = node.daemon("iperf3", ["iperf3", "--server", "--port", IPERF_PORT])
    server.start()
    try:
        yield
    finally:
        server.stop("KILL")


def iperf(source: Node, target: Node) -> tuple[float, float]:
    """GB/s of one stream, and the processor seconds that both its ends take for a GB."""
    words = ["--client", target.address, "--port", IPERF_PORT, "--time", IPERF_S, "--json"]
    end = json.loads(source.exec(["iperf3", *words]).text)["end"]
    rate = float(end["sum_received"]["bits_per_second"]) / 8e9
    used = end["cpu_utilization_percent"]
    return rate, (used["host_total"] + used["remote_total"]) / 100 / rate


def measure(source: Node, target: Node) -> dict[str, Any]:
    """The rates, their ratio, and the samples they are medians of."""
    total = (MEBIBYTES << 20) / 1e9
    ours: list[float] = []
    peers: list[tuple[float, float]] = []
    sending: list[float] = []
    receiving: list[float] = []
    with both_ends(source, target) as (sender, receiver), iperf_server(target):
        first = total / sender.ask()["took_s"]
        for _ in range(ROUNDS):
            peers.append(iperf(source, target))
            before = receiver.ask()["cpu_s"]
            answer = sender.ask()
            ours.append(total / answer["took_s"])
            sending.append(answer["cpu_s"] / total)
            receiving.append((receiver.ask()["cpu_s"] - before) / total)
    rates = [rate for rate, _ in peers]
    return {
        "transfer_gb_per_s": round(statistics.median(ours), 3),
        "iperf3_gb_per_s": round(statistics.median(rates), 3),
        "transfer_ratio": round(statistics.median(ours) / statistics.median(rates), 3),
        "first_transfer_gb_per_s": round(first, 3),
        "sender_cpu_s_per_gb": round(statistics.median(sending), 3),
        "receiver_cpu_s_per_gb": round(statistics.median(receiving), 3),
        "iperf3_cpu_s_per_gb": round(statistics.median(cpu_s for _, cpu_s in peers), 3),
        "lanes": LANES,
        "mebibytes": MEBIBYTES,
        "transfer_spread": spread(ours),
        "iperf3_spread": spread(rates),
        "transfer_samples": ours,
        "iperf3_samples": rates,
    }


def main() -> int:
    """Measures on nodes of its own; exit status 1 if the bar is missed."""
    figures: dict[str, Any] = {"machine": machine(), "quick": QUICK}
    with testbed.nodes(2) as [source, target]:
        figures |= measure(source, target)
    figures["missed"] = ["transfer_ratio"] if figures["transfer_ratio"] < BAR_RATIO else []
    print(json.dumps(figures))
    return 1 if figures["missed"] else 0


if __name__ == "__main__":
    sys.exit(main())
