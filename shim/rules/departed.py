# SPDX-License-Identifier: Apache-2.0
"""Keeps a pod that moved away from being started here again; its deletion waits for its move.

Trigger: CreateContainer and StartContainer in a sandbox whose pod has left, RunPodSandbox of such a
pod; StopContainer and StopPodSandbox of one that is leaving. Effect: the first are refused with
where the pod runs, also after a restart of kubelet or of the node; the others wait until the move
is over, inside the caller's deadline. On failure: the call passes.
"""

from __future__ import annotations

from collections.abc import Callable

from shim.core.methods import RUNTIME, short
from shim.core.rules import (
    PASS,
    BaseRule,
    Call,
    Hold,
    Message,
    Refuse,
    ReplyVerdict,
    RequestVerdict,
)
from shim.errors import Refused
from shim.migration.source import Source

_STARTS = ("RunPodSandbox", "CreateContainer", "StartContainer")
_STOPS = ("StopContainer", "StopPodSandbox")
_REMOVES = ("RemovePodSandbox",)


class Departed(BaseRule):
    """The rule.

    Args:
        source: the pods that leave.
        on_removed: told of each sandbox that the runtime has removed.
    """

    name = "departed"
    methods = tuple(RUNTIME + name for name in (*_STARTS, *_STOPS, *_REMOVES))

    def __init__(self, source: Source, on_removed: Callable[[str], None]) -> None:
        self._source = source
        self._on_removed = on_removed

    def on_request(self, call: Call) -> RequestVerdict:
        """Refuses or delays."""
        sandbox = call.subject.sandbox
        if sandbox is None or short(call.method) in _REMOVES:
            return PASS
        if short(call.method) in _STOPS:
            going = self._source.going(sandbox.sandbox_id)
            return Hold(going, "moving") if going else PASS
        record = self._source.departed(sandbox.uid)
        if record is None:
            return PASS
        return Refuse(
            Refused(
                f"this pod runs on node {record.target} now",
                where=f"pod {sandbox.pod}",
                remedy="delete it here; `podferry migrations` shows its move",
            )
        )

    def on_reply(self, call: Call, reply: Message) -> ReplyVerdict:
        """Tells of a sandbox that is gone."""
        if short(call.method) in _REMOVES:
            sandbox = call.subject.sandbox
            self._on_removed(sandbox.sandbox_id if sandbox else call.request.pod_sandbox_id)
        return PASS
