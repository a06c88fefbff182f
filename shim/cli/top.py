# SPDX-License-Identifier: Apache-2.0
"""`podferry top`: CRI calls as they happen."""

from __future__ import annotations

import collections
import json
import threading
import time
from pathlib import Path
from typing import Any

import click

from cri_proto import control_pb2 as pb
from shim.cli.client import service
from shim.cli.output import as_dict, micros, output_option, size

REFRESH_S = 0.5
RATE_WINDOW_S = 10.0
SHOWN_ENDED = 15


class View:
    """What the screen shows: calls under way, calls that ended last, and rates by method."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begun: dict[int, tuple[float, pb.WatchCallsResponse]] = {}
        self._ended: collections.deque[pb.WatchCallsResponse] = collections.deque(
            maxlen=SHOWN_ENDED
        )
        self._times: collections.deque[tuple[float, str]] = collections.deque(maxlen=100_000)
        self._missed = 0

    def take(self, seen: pb.WatchCallsResponse, now_s: float) -> None:
        """Notes what the service told."""
        with self._lock:
            self._missed += seen.missed
            if not seen.ended:
                self._begun[seen.call_id] = (now_s, seen)
                return
            self._begun.pop(seen.call_id, None)
            self._ended.appendleft(seen)
            self._times.append((now_s, seen.method))

    def render(self, now_s: float) -> Any:
        """The screen at a moment."""
        from rich.console import Group
        from rich.table import Table

        with self._lock:
            while self._times and self._times[0][0] < now_s - RATE_WINDOW_S:
                self._times.popleft()
            rate = len(self._times) / RATE_WINDOW_S
            busiest = collections.Counter(_short(method) for _, method in self._times)
            head = f"{rate:.1f} calls/s, {len(self._begun)} under way"
            if self._missed:
                head += f", {self._missed} not shown (this terminal is too slow)"
            calls = Table(box=None, pad_edge=False)
            for column in ("CALL", "METHOD", "POD", "CONTAINER", "STATE"):
                calls.add_column(column)
            for column in ("TOOK", "RUNTIME", "REPLY"):
                calls.add_column(column, justify="right")
            for begun_s, seen in sorted(self._begun.values(), key=lambda pair: pair[0])[:20]:
                took = micros((now_s - begun_s) * 1e6)
                calls.add_row(*_cells(seen, "running"), took, "", "")
            for seen in self._ended:
                calls.add_row(
                    *_cells(seen, seen.code), micros(seen.took_ms * 1e3),
                    micros(seen.backend_ms * 1e3), size(seen.reply_bytes),
                )  # fmt: skip
        most = "  ".join(f"{name} {n / RATE_WINDOW_S:.1f}/s" for name, n in busiest.most_common(6))
        return Group(head, most, "", calls)


def _short(method: str) -> str:
    return method.rpartition("/")[2]


def _cells(seen: pb.WatchCallsResponse, state: str) -> tuple[str, str, str, str, str]:
    return str(seen.call_id), _short(seen.method), seen.pod, seen.container, state


@click.command()
@output_option
@click.option("--count", type=int, default=0, help="End after this many calls have ended.")
@click.pass_obj
def top(config: Path | None, output: str, count: int) -> None:
    """Show CRI calls live: what runs, what ended, how long ours and the runtime's part took.

    With --output json every beginning and end of a call is one line of JSON. Ends with Ctrl-C.

    \b
    Exit status:
      0  ended by Ctrl-C, or the number of calls asked for was seen
      1  no service answers, or it went away
    """
    with service(config) as stub:
        stream = stub.WatchCalls(pb.WatchCallsRequest())
        try:
            if output == "json":
                for seen in _until(stream, count):
                    click.echo(json.dumps(as_dict(seen), sort_keys=True))
            else:
                _live(stream, count)
        except KeyboardInterrupt:
            stream.cancel()


def _until(stream: Any, count: int) -> Any:
    ended = 0
    for seen in stream:
        yield seen
        ended += seen.ended
        if count and ended >= count:
            stream.cancel()
            return


def _live(stream: Any, count: int) -> None:
    from rich.live import Live

    view = View()
    with Live(refresh_per_second=1 / REFRESH_S, get_renderable=lambda: view.render(time.time())):
        for seen in _until(stream, count):
            view.take(seen, time.time())
