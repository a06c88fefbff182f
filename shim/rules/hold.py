# SPDX-License-Identifier: Apache-2.0
"""Makes calls wait that somebody asked to hold, until they are released or the hold's time is over.

Trigger: a hold made through the control socket for a pod, perhaps one container, and methods.
Effect: the call waits inside its caller's deadline and then goes on unchanged. On failure: the
call goes on at once. A hold ends with the process unless a successor takes it over.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable

from shim.core.holds import HOLDABLE, HeldCalls, Holds
from shim.core.methods import RUNTIME, short
from shim.core.rules import PASS, BaseRule, Call, RequestVerdict
from shim.core.rules import Hold as HoldVerdict


class Hold(BaseRule):
    """The rule that holds calls; also the driver that ends holds when their time is over."""

    name = "hold"
    methods = tuple(sorted(RUNTIME + name for name in HOLDABLE))

    def __init__(self) -> None:
        self.holds = Holds(f"hold-{os.getpid()}")
        self._opened: dict[str, asyncio.Event] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def on_request(self, call: Call) -> RequestVerdict:
        """Holds a call that a hold concerns; deadlines and cancellation go on counting."""
        hold = self.holds.of(short(call.method), call.subject)
        if hold is None:
            return PASS
        return HoldVerdict(self._wait(call), f"hold {hold.hold_id}")

    def add(self, pod: str, container: str, methods: Iterable[str], at_most_s: float) -> HeldCalls:
        """Makes a hold that ends by itself; see `Holds.add` for what is refused."""
        now_s = asyncio.get_running_loop().time()
        return self._arm(self.holds.add(pod, container, methods, at_most_s, now_s))

    def adopt(
        self, hold_id: str, pod: str, container: str, methods: Iterable[str], remaining_s: float
    ) -> HeldCalls:
        """Takes over a hold of a predecessor, under its old id."""
        now_s = asyncio.get_running_loop().time()
        return self._arm(
            self.holds.add(pod, container, methods, remaining_s, now_s, hold_id=hold_id)
        )

    def _arm(self, hold: HeldCalls) -> HeldCalls:
        self._opened[hold.hold_id] = asyncio.Event()
        # The time of the hold, not of the clock: libuv's timers fire up to a millisecond early, and
        # a hold that was found not to be over then would never end.
        self._timers[hold.hold_id] = asyncio.get_running_loop().call_at(
            hold.until_s, self._expire, hold.until_s
        )
        return hold

    def release(self, hold_id: str) -> int:
        """Ends a hold and returns how many calls it let go.

        Raises:
            NotFound: there is none of that id.
        """
        hold = self.holds.remove(hold_id)
        self._open(hold)
        return len(hold.waiting)

    def _expire(self, until_s: float) -> None:
        for hold in self.holds.expire(until_s):
            self._open(hold)

    def _open(self, hold: HeldCalls) -> None:
        self._timers.pop(hold.hold_id).cancel()
        self._opened.pop(hold.hold_id).set()

    async def _wait(self, call: Call) -> None:
        # A call goes on when nothing holds it any more, not when the first of two holds has ended.
        while hold := self.holds.of(short(call.method), call.subject):
            hold.waiting.add(call.call_id)
            try:
                await self._opened[hold.hold_id].wait()
            finally:
                hold.waiting.discard(call.call_id)
