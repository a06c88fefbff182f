# SPDX-License-Identifier: Apache-2.0
"""What clients notice of a handover and of a kill -9."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc

CALLERS = 16
POLL_S = 0.005
GIVE_UP_S = 30.0
METHODS = ("Version", "Status", "ListPodSandbox")


class Callers:
    """Callers in closed loops, each with a connection of its own as kubelet has."""

    def __init__(self, socket: Path, count: int = CALLERS) -> None:
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.good = 0
        self.lost: Counter[str] = Counter()
        self.slowest_ms = 0.0
        self._threads = [
            threading.Thread(target=self._call, args=(socket, i)) for i in range(count)
        ]

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _call(self, socket: Path, index: int) -> None:
        # gRPC's C core, which kubelet does not use, writes a ping of its own before it reads a
        # reply that has come. If the server has hung up behind that reply, which ends a connection
        # that was asked to go, the ping's EPIPE costs the reply (docs/design.md).
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.http2.bdp_probe", 0)]
        with grpc.insecure_channel(f"unix:{socket}", options=options) as channel:
            name = METHODS[index % len(METHODS)]
            call = channel.unary_unary(f"/runtime.v1.RuntimeService/{name}")
            while not self._stop.is_set():
                begun = time.monotonic()
                lost = ""
                try:
                    call(b"", timeout=20)
                except grpc.RpcError as error:
                    lost = f"{error.code().name}: {error.details()}"
                with self._lock:
                    self.slowest_ms = max(self.slowest_ms, (time.monotonic() - begun) * 1e3)
                    self.good += not lost
                    if lost:
                        self.lost[lost] += 1


def handovers(
    socket: Path, hand_over: Callable[[], None], times: int, pause_s: float
) -> dict[str, Any]:
    """Hands the socket over several times under load.

    Args:
        socket: our socket.
        hand_over: makes one handover; returns when the successor serves.
        times: how many.
        pause_s: between them, longer than the old process needs to end.
    """
    took_ms = []
    with Callers(socket) as callers:
        time.sleep(1)
        for _ in range(times):
            begun = time.monotonic()
            hand_over()
            took_ms.append(round((time.monotonic() - begun) * 1e3, 1))
            time.sleep(pause_s)
    return {
        "handover_lost_calls": sum(callers.lost.values()),
        "handover_calls": callers.good,
        "handover_ms": took_ms,
        "slowest_call_ms": round(callers.slowest_ms, 1),
        "lost": dict(callers.lost),
    }


def kill_gaps(socket: Path, kill: Callable[[], None], times: int) -> dict[str, Any]:
    """Kills the service several times and waits each time until it answers again.

    Args:
        socket: our socket.
        kill: sends SIGKILL to the serving process.
        times: how many.

    Raises:
        TimeoutError: it does not come back.
    """
    gaps_ms = []
    for _ in range(times):
        _wait_answer(socket)
        time.sleep(1)
        begun = time.monotonic()
        kill()
        _wait_answer(socket)
        gaps_ms.append(round((time.monotonic() - begun) * 1e3, 1))
    return {"kill9_gap_ms": max(gaps_ms), "raw_ms": gaps_ms}


def _wait_answer(socket: Path) -> None:
    deadline = time.monotonic() + GIVE_UP_S
    while time.monotonic() < deadline:
        # A fresh connection each time, so that no client's back-off is measured.
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(f"unix:{socket}", options=options) as channel:
            try:
                channel.unary_unary("/runtime.v1.RuntimeService/Version")(b"", timeout=1)
                return
            except grpc.RpcError:
                time.sleep(POLL_S)
    raise TimeoutError(f"{socket} does not answer")
