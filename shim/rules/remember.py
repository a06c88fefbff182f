# SPDX-License-Identifier: Apache-2.0
"""Remembers sandboxes and containers as they are made and removed, and says whom a call is about.

Trigger: every lifecycle call and the exec family. Effect: the registry follows the runtime, and
`call.subject` is known to the rules behind this one; a pod whose podferry.dev/ annotations are
malformed is refused with the key and the value that was wanted, before anything is made. On
failure: the call passes, and the registry is rebuilt from the runtime's lists.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from shim.core.methods import RUNTIME, short
from shim.core.policy import read_annotations
from shim.core.registry import Container, Registry, Sandbox, Subject
from shim.core.rules import PASS, BaseRule, Call, Message, Refuse, ReplyVerdict, RequestVerdict
from shim.errors import Code, InvalidAnnotation

logger = logging.getLogger(__name__)

_BY_CONTAINER = (
    "StartContainer StopContainer RemoveContainer ExecSync Exec Attach CheckpointContainer"
)
_BY_SANDBOX = "StopPodSandbox RemovePodSandbox CreateContainer PortForward"

_MAKES_OR_REMOVES = frozenset(
    {"RunPodSandbox", "RemovePodSandbox", "CreateContainer", "RemoveContainer"}
)
_UNDECIDED = frozenset({Code.CANCELLED, Code.DEADLINE_EXCEEDED, Code.UNAVAILABLE})


class Remember(BaseRule):
    """The rule that keeps the registry.

    Args:
        registry: what it keeps.
        on_doubt: called when a call has ended so that the runtime may or may not have done it.
    """

    name = "remember"
    methods = tuple(
        RUNTIME + name for name in f"RunPodSandbox {_BY_SANDBOX} {_BY_CONTAINER}".split()
    )

    def __init__(self, registry: Registry, on_doubt: Callable[[], None] = lambda: None) -> None:
        self._registry = registry
        self._on_doubt = on_doubt

    def on_request(self, call: Call) -> RequestVerdict:
        """Finds the subject of a call; refuses a new pod whose annotations are malformed."""
        name = short(call.method)
        if name == "RunPodSandbox":
            try:
                call.subject = Subject(sandbox=_sandbox("", call.request))
            except InvalidAnnotation as error:
                metadata = call.request.config.metadata
                error.where = f"pod {metadata.namespace}/{metadata.name}: {error.where}"
                return Refuse(error)
        elif name in _BY_SANDBOX.split():
            call.subject = self._registry.of_sandbox(call.request.pod_sandbox_id)
            if name == "CreateContainer":
                made = call.request.config.metadata
                call.subject = Subject(
                    call.subject.sandbox,
                    Container("", call.request.pod_sandbox_id, made.name, made.attempt),
                )
        else:
            call.subject = self._registry.of_container(call.request.container_id)
        return PASS

    def on_reply(self, call: Call, reply: Message) -> ReplyVerdict:
        """Learns what the runtime has made or removed."""
        name = short(call.method)
        if name == "RunPodSandbox":
            sandbox = _sandbox(reply.pod_sandbox_id, call.request)
            self._registry.add_sandbox(sandbox)
            call.subject = Subject(sandbox=sandbox)
            if sandbox.wishes.unknown:
                logger.warning(
                    "annotations not known to this release pod=%s keys=%s",
                    sandbox.pod, ",".join(sandbox.wishes.unknown),
                )  # fmt: skip
        elif name == "CreateContainer":
            made = call.request.config.metadata
            container = Container(
                reply.container_id, call.request.pod_sandbox_id, made.name, made.attempt
            )
            self._registry.add_container(container)
            call.subject = Subject(call.subject.sandbox, container)
        elif name == "RemoveContainer":
            self._registry.forget_container(call.request.container_id)
        elif name == "RemovePodSandbox":
            self._registry.forget_sandbox(call.request.pod_sandbox_id)
        return PASS

    def on_error(self, call: Call, code: int) -> None:
        """Asks for a rebuild where the caller went away before the runtime has said what it did."""
        if code in _UNDECIDED and short(call.method) in _MAKES_OR_REMOVES:
            self._on_doubt()


def _sandbox(sandbox_id: str, request: Message) -> Sandbox:
    metadata = request.config.metadata
    return Sandbox(
        sandbox_id=sandbox_id,
        namespace=metadata.namespace,
        name=metadata.name,
        uid=metadata.uid,
        attempt=metadata.attempt,
        labels=dict(request.config.labels),
        wishes=read_annotations(request.config.annotations),
        runtime_handler=request.runtime_handler,
    )
