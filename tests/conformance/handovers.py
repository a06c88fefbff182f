# SPDX-License-Identifier: Apache-2.0
"""Hands podferry over to itself again and again while something else uses its socket."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

from shim.errors import PodferryError
from tests.conformance import calls
from tests.testbed import service
from tests.testbed.node import Node


class Handovers:
    """A handover every so often until the block ends; none if the time is 0.

    Args:
        node: where podferry serves.
        shim: the service; knows its last process afterwards.
        every_s: the time from the end of one to the beginning of the next.

    Attributes:
        done: how many there were.
        past: the calls that the processes that were replaced had passed on.
    """

    def __init__(self, node: Node, shim: service.Shim, every_s: float) -> None:
        self.done = 0
        self.past = calls.Tally()
        self._node = node
        self._shim = shim
        self._every_s = every_s
        self._end = threading.Event()
        self._failure: PodferryError | None = None
        self._thread = threading.Thread(target=self._run, name="handovers")

    def __enter__(self) -> Self:
        if self._every_s:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end.set()
        if self._every_s:
            self._thread.join()
            self._shim.daemon.pid = calls.status(self._node).pid
        if self._failure is not None and error is None:
            raise self._failure

    def _run(self) -> None:
        while not self._end.wait(self._every_s):
            try:
                # What comes in between the answer and the handover is not counted.
                self.past.add(calls.status(self._node))
                self._node.exec([service.PODFERRY, "--config", service.CONFIG, "handover"])
            except PodferryError as error:
                self._failure = error
                return
            self.done += 1
