# SPDX-License-Identifier: Apache-2.0
"""The client as a test holds it: a process on a node that does as it is told."""

from __future__ import annotations

import json
import selectors
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.testbed.errors import NodeFailed
from tests.testbed.node import Node

DIRECTORY = "/var/tmp/podferry-client"
SCRIPTS = {"memcached": "crowd.py", "websocket": "frames.py"}
"""Who speaks what client.py does not, by kind; they build on it."""
REPLY_DEADLINE_S = 60.0


@dataclass(frozen=True)
class Felt:
    """What a user has felt.

    Attributes:
        asked: requests.
        wrong: answers that were not right.
        resets: connections that broke.
        lost: requests without an answer in time.
        retransmits: segments that were sent again.
        longest_ms: from a request to its reply, at worst.
        first_error: what went wrong first, or "".
        said: what the workload says of itself.
    """

    asked: int
    wrong: int
    resets: int
    lost: int
    retransmits: int
    longest_ms: float
    first_error: str
    said: dict[str, Any]

    @property
    def is_well(self) -> bool:
        """Whether every answer came, and was right."""
        return not (self.wrong or self.resets or self.lost)


class Client:
    """client.py, or what builds on it, on a node; a context manager that ends it.

    Args:
        node: where it runs.
        kind: what it speaks.
        address: the workload's.
        port: its port.
    """

    def __init__(self, node: Node, kind: str, address: str, port: int) -> None:
        script = SCRIPTS.get(kind, "client.py")
        for name in {"client.py", script}:
            node.write(f"{DIRECTORY}/{name}", Path(__file__).with_name(name).read_bytes())
        argv = ["/usr/bin/python3", "-u", f"{DIRECTORY}/{script}", kind, address, str(port)]
        self.process = subprocess.Popen(
            node.inside.argv(argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            self._reply()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def ask(self, count: int = 1) -> list[float]:
        """So many requests one after the other; the milliseconds of each."""
        return [float(one) for one in self._command(f"ask {count}")["ms"]]

    def fresh(self) -> float:
        """A request on a connection of its own; its milliseconds."""
        return float(self._command("fresh")["ms"][0])

    def start(self, period_ms: float) -> None:
        """Lets it ask in the background."""
        self._command(f"start {period_ms}")

    def stop(self) -> None:
        """Ends that."""
        self._command("stop")

    def report(self) -> Felt:
        """The totals so far."""
        return Felt(**self._command("report"))

    def finish(self) -> Felt:
        """What only the end can show, and the totals."""
        return Felt(**self._command("finish"))

    def close(self) -> None:
        """Ends it."""
        assert self.process.stdin is not None
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()

    def _command(self, line: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self._reply()

    def _reply(self) -> dict[str, Any]:
        assert self.process.stdout is not None and self.process.stderr is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            ready = selector.select(REPLY_DEADLINE_S)
        line = self.process.stdout.readline() if ready else ""
        if not line:
            self.process.kill()
            said = self.process.stderr.read()
            raise NodeFailed(f"the client does not answer: {said[-2000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer
