# SPDX-License-Identifier: Apache-2.0
"""Measures how long a CRI socket did not answer: one small call after the other, all the time."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc

from tests.testbed.cri import CriClient

PAUSE_S = 0.02
DEADLINE_S = 2.0


class Watch:
    """Calls Version until it is closed; a context manager.

    Args:
        socket: the CRI socket as the host can dial it.
    """

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._may_call = threading.Event()
        self._may_call.set()
        self._thread = threading.Thread(target=self._run, name="gap watch")
        self._last_s = time.monotonic()
        self._longest_s = 0.0
        self._failures = 0
        self._last_failure = ""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end.set()
        self._thread.join()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Makes no call meanwhile, and takes that time for no gap."""
        self._may_call.clear()
        try:
            yield
        finally:
            with self._lock:
                self._last_s = time.monotonic()
            self._may_call.set()

    def take(self) -> tuple[float, int, str]:
        """The longest time in ms between two answers, the failed calls, how the last one failed.

        Counts anew.
        """
        with self._lock:
            longest_s = max(self._longest_s, time.monotonic() - self._last_s)
            taken = longest_s * 1000, self._failures, self._last_failure
            self._longest_s, self._failures, self._last_failure = 0.0, 0, ""
            return taken

    def _run(self) -> None:
        while not self._end.is_set():
            # A fresh client after each failure: a client's back-off is not the service's gap.
            with CriClient(self._socket) as client:
                while self._answers(client):
                    if self._end.wait(PAUSE_S):
                        return
            self._end.wait(PAUSE_S)

    def _answers(self, client: CriClient) -> bool:
        self._may_call.wait()
        try:
            client.version(deadline_s=DEADLINE_S)
        except grpc.RpcError as error:
            with self._lock:
                self._failures += 1
                if isinstance(error, grpc.Call):
                    self._last_failure = f"{error.code().name}: {error.details()}"
            return False
        now_s = time.monotonic()
        with self._lock:
            self._longest_s = max(self._longest_s, now_s - self._last_s)
            self._last_s = now_s
        return True
