# SPDX-License-Identifier: Apache-2.0
"""Wakes a sleeping pod before a call that needs its processes.

Trigger: Exec, ExecSync, Attach and PortForward of a sleeping pod. Effect: the call waits until the
pod runs, and goes on unchanged. On failure: the call goes on, and the runtime says what is wrong.
"""

from __future__ import annotations

import logging

from shim.checkpoint.sleeping import Sleeping
from shim.core.methods import RUNTIME, short
from shim.core.rules import PASS, BaseRule, Call, Hold, RequestVerdict
from shim.errors import PodferryError

logger = logging.getLogger(__name__)


class Wake(BaseRule):
    """The rule that wakes.

    Args:
        sleeping: the sleeping pods.
    """

    name = "wake"
    methods = tuple(RUNTIME + name for name in ("Exec", "ExecSync", "Attach", "PortForward"))

    def __init__(self, sleeping: Sleeping) -> None:
        self._sleeping = sleeping

    def on_request(self, call: Call) -> RequestVerdict:
        """Makes the call wait for the wake of a sleeping pod."""
        sandbox = call.subject.sandbox
        if sandbox is None or not self._sleeping.knows(sandbox.sandbox_id):
            return PASS
        return Hold(self._wake(sandbox.sandbox_id, short(call.method)), "wake")

    async def _wake(self, sandbox_id: str, method: str) -> None:
        try:
            await self._sleeping.wake_sandbox(sandbox_id, method)
        except PodferryError as error:
            logger.error("pod is not woken sandbox=%s error=%s", sandbox_id, error)
