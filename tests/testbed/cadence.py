# SPDX-License-Identifier: Apache-2.0
"""Makes kubelet's background calls at kubelet's periods, and counts what a kubelet would notice."""

from __future__ import annotations

import functools
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc

from tests.testbed.cri import CriClient

# Period in seconds and the calls behind it, in kubelet's order. They add up to what kubelet 1.36
# was seen to make when idle: 104 ListContainers, 97 ListPodSandbox, 12 Status a minute and so on.
ROWS: tuple[tuple[str, float, tuple[str, ...]], ...] = (
    ("relist", 1, ("ListPodSandbox", "ListContainers")),
    ("housekeeping", 2, ("ListPodSandbox", "ListContainers")),
    ("node status", 5, ("Status",)),
    ("eviction", 10, ("ListContainerStats", "ListPodSandbox", "ListContainers", "ImageFsInfo")),
    # "ContainerStatus" lists the containers itself and asks for each.
    ("log rotation", 10, ("Version", "ContainerStatus")),
    ("image list", 30, ("ListImages",)),
    ("garbage", 60, ("ListContainers", "ListPodSandbox")),
)
JOIN_DEADLINE_S = 130.0


@dataclass
class Figures:
    """What was counted.

    Attributes:
        calls: answers by method, good and bad.
        errors: bad answers by method and status name.
        slowest_s: the longest time to an answer, by method.
        longest_gap_s: the longest time from one good answer, of any method, to the next.
    """

    calls: Counter[str] = field(default_factory=Counter)
    errors: Counter[tuple[str, str]] = field(default_factory=Counter)
    slowest_s: dict[str, float] = field(default_factory=dict)
    longest_gap_s: float = 0.0


class Cadence:
    """kubelet's loops, each in its own thread as kubelet has them; a context manager.

    Args:
        socket: the CRI socket as the host can dial it.
        scale: multiplies every period; 1 is kubelet's own pace.
    """

    def __init__(self, socket: Path, scale: float = 1.0) -> None:
        self._client = CriClient(socket)
        self._scale = scale
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._figures = Figures()
        self._last_good = 0.0
        self._threads = [
            threading.Thread(target=self._loop, args=(period, calls), name=f"kubelet {name}")
            for name, period, calls in ROWS
        ]
        client = self._client
        self._make: dict[str, Callable[[], object]] = {
            "ListPodSandbox": client.list_pod_sandbox,
            "ListContainers": client.list_containers,
            "Status": client.status,
            "ListContainerStats": client.list_container_stats,
            "ImageFsInfo": client.image_fs_info,
            "Version": client.version,
            "ListImages": client.list_images,
        }

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Starts every loop; each makes its calls at once and then by its period."""
        self._last_good = time.monotonic()
        for thread in self._threads:
            thread.start()

    def stop(self) -> Figures:
        """Ends the loops after the calls under way and returns what was counted."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(JOIN_DEADLINE_S)
        self._client.close()
        return self.figures()

    def figures(self) -> Figures:
        """What has been counted so far, an open gap included."""
        with self._lock:
            open_gap = 0.0 if self._stopping.is_set() else time.monotonic() - self._last_good
            return Figures(
                Counter(self._figures.calls),
                Counter(self._figures.errors),
                dict(self._figures.slowest_s),
                max(self._figures.longest_gap_s, open_gap),
            )

    def _loop(self, period_s: float, methods: tuple[str, ...]) -> None:
        due = time.monotonic()
        while not self._stopping.is_set():
            for method in methods:
                self._run(method)
            # A late round is not made up for: kubelet's tickers drop what they missed.
            due = max(due + period_s * self._scale, time.monotonic())
            self._stopping.wait(due - time.monotonic())

    def _run(self, method: str) -> None:
        if method == "ContainerStatus":
            containers: list[str] = []
            self._count(
                "ListContainers",
                lambda: containers.extend(str(one.id) for one in self._client.list_containers()),
            )
            for one in containers:
                self._count(method, functools.partial(self._client.container_status, one))
        else:
            self._count(method, self._make[method])

    def _count(self, method: str, call: Callable[[], object]) -> None:
        begun = time.monotonic()
        status = "OK"
        try:
            call()
        except grpc.RpcError as error:
            status = error.code().name if isinstance(error, grpc.Call) else "UNKNOWN"
        ended = time.monotonic()
        with self._lock:
            figures = self._figures
            figures.calls[method] += 1
            slowest = max(figures.slowest_s.get(method, 0.0), ended - begun)
            figures.slowest_s[method] = slowest
            if status == "OK":
                figures.longest_gap_s = max(figures.longest_gap_s, ended - self._last_good)
                self._last_good = ended
            elif (method, status) != ("ContainerStatus", "NOT_FOUND"):
                # A container may go between the list and the question; kubelet does not mind.
                figures.errors[method, status] += 1
