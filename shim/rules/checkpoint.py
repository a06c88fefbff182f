# SPDX-License-Identifier: Apache-2.0
"""Writes checkpoints of containers that have a monitor, in place of the runtime.

Trigger: CheckpointContainer. Effect: the archive is written by podferry, the container stands still
for a tenth of the time the runtime would take, and the caller gets the answer. On failure: the
caller gets the reason and what to do. A container without a monitor is the runtime's affair.

It takes two rules: the first makes the call wait for the work, the second answers.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from cri_proto import runtime_v1_pb2 as cri
from shim.core.methods import RUNTIME
from shim.core.rules import PASS, Answer, BaseRule, Call, Hold, Refuse, RequestVerdict
from shim.errors import PodferryError
from shim.runtime import monitor

logger = logging.getLogger(__name__)

METHOD = RUNTIME + "CheckpointContainer"
NOTE = "checkpoint"

Write = Callable[[str, str], Awaitable[object]]


class Checkpoint(BaseRule):
    """The rule that does the work.

    Args:
        write: writes the archive of a container to a location.
    """

    name = NOTE
    methods = (METHOD,)

    def __init__(self, write: Write) -> None:
        self._write = write

    def on_request(self, call: Call) -> RequestVerdict:
        """Makes the call wait until the archive is written."""
        if not monitor.find(call.request.container_id).is_dir():
            return PASS
        return Hold(self._work(call), "checkpoint")

    async def _work(self, call: Call) -> None:
        try:
            await self._write(call.request.container_id, call.request.location)
            call.notes[NOTE] = None
        except PodferryError as error:
            logger.warning("no checkpoint call_id=%d error=%s", call.call_id, error)
            call.notes[NOTE] = error


class CheckpointAnswer(BaseRule):
    """The rule that answers for `Checkpoint`; stands behind it."""

    name = "checkpoint-answer"
    methods = (METHOD,)

    def on_request(self, call: Call) -> RequestVerdict:
        """Answers with what came of the work."""
        if NOTE not in call.notes:
            return PASS
        error = call.notes[NOTE]
        return Refuse(error) if error else Answer(cri.CheckpointContainerResponse())
