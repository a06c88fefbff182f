# SPDX-License-Identifier: Apache-2.0
"""Lets a kubelet's new pod be the one that a moving pod's processes come into.

Trigger: RunPodSandbox of a pod that an offer is meant for, and the calls about its containers.
Effect: each container is announced as claimed before the runtime creates it; StartContainer of the
last one returns once the pod runs, or starts by itself because the move was given up; exec probes
succeed meanwhile; an init container that has finished on the source ends at once with 0. On
failure: the pod starts as any other.

It takes two rules: the first makes a call wait for the work, the second answers.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from cri_proto import peer_pb2 as peer
from cri_proto import runtime_v1_pb2 as cri
from shim.core.methods import RUNTIME, short
from shim.core.offers import Offer, chosen
from shim.core.rules import (
    PASS,
    Answer,
    BaseRule,
    Call,
    Hold,
    Message,
    Refuse,
    ReplyVerdict,
    RequestVerdict,
)
from shim.errors import PodferryError
from shim.migration.replacement import Replacement
from shim.migration.target import Target
from shim.runtime import claims

logger = logging.getLogger(__name__)

NOTE = "claim"


@dataclass(slots=True)
class Claimed:
    """A pod of a kubelet's that an offer was granted to.

    Attributes:
        offer: what comes into it.
        made: as far as the kubelet has come.
        started: the containers whose StartContainer the runtime has answered.
    """

    offer: peer.OfferRequest
    made: Replacement
    started: set[str] = field(default_factory=set)

    @property
    def wanted(self) -> set[str]:
        """The names of the containers that come."""
        return {one.name for one in self.offer.containers if not one.finished}

    @property
    def finished(self) -> set[str]:
        """The names of init containers that are not run again."""
        return {one.name for one in self.offer.containers if one.finished}


class Claim(BaseRule):
    """The rule that grants offers and does the work.

    Args:
        target: the pods that come.
        start: asks the runtime to start a container.
    """

    name = NOTE
    methods = tuple(
        RUNTIME + name
        for name in ("RunPodSandbox", "CreateContainer", "StartContainer", "ExecSync")
    )

    def __init__(self, target: Target, start: Callable[[str], Awaitable[None]]) -> None:
        self._target = target
        self._start = start
        self.pods: dict[str, Claimed] = {}

    def on_request(self, call: Call) -> RequestVerdict:
        """Makes StartContainer of a claimed container wait for the work."""
        name = short(call.method)
        if name not in ("StartContainer", "ExecSync"):
            return PASS
        sandbox, container = call.subject.sandbox, call.subject.container
        pod = self.pods.get(sandbox.sandbox_id) if sandbox else None
        if pod is None or container is None:
            return PASS
        if name == "ExecSync":
            return Answer(cri.ExecSyncResponse()) if self._waits(pod) else PASS
        if pod.made.containers.get(container.name) != container.container_id:
            return PASS  # a later attempt starts cold
        return Hold(self._begin(call, pod, container.name, container.container_id), "claim")

    def on_reply(self, call: Call, reply: Message) -> ReplyVerdict:
        """Grants an offer to a new sandbox; announces its containers."""
        if short(call.method) == "RunPodSandbox":
            self._grant(call, reply.pod_sandbox_id)
        elif short(call.method) == "CreateContainer":
            pod = self.pods.get(call.request.pod_sandbox_id)
            wanted = call.request.config.metadata
            if pod and wanted.attempt == 0 and wanted.name in pod.wanted | pod.finished:
                pod.made.containers[wanted.name] = reply.container_id
                pod.made.created[wanted.name] = call.request
                claims.announce(reply.container_id)
        return PASS

    def _grant(self, call: Call, sandbox_id: str) -> None:
        if call.subject.sandbox is None:
            return
        sandbox = call.subject.sandbox
        waiting = self._target.waiting_claims()
        offers = [
            Offer(move, one.pod, dict(one.labels), frozenset(c.name for c in one.containers))
            for move, one in waiting.items()
        ]
        taken = {one.offer.move for one in self.pods.values()}
        free = [one for one in offers if one.move not in taken]
        offer = chosen(
            free, sandbox.namespace, sandbox.name, sandbox.labels, sandbox.wishes.migration
        )
        if offer is not None:
            made = Replacement(sandbox.uid, sandbox_id)
            self.pods[sandbox_id] = Claimed(waiting[offer.move], made)
            logger.info("offer is granted move=%s pod=%s uid=%s", offer.move, sandbox.pod,
                        sandbox.uid)  # fmt: skip

    def _waits(self, pod: Claimed) -> bool:
        return not self._target.is_over(pod.offer.move)

    async def _begin(self, call: Call, pod: Claimed, name: str, container_id: str) -> None:
        try:
            await self._start(container_id)
            if name in pod.finished:
                await self._target.finish_init(container_id)
            pod.started.add(name)
            if pod.wanted <= pod.started:
                self._target.grant(pod.offer.move, pod.made)
                await self._target.over(pod.offer.move)
            call.notes[NOTE] = None
        except PodferryError as error:
            logger.warning("claimed start failed container=%s error=%s", container_id, error)
            call.notes[NOTE] = error


class ClaimAnswer(BaseRule):
    """The rule that answers for `Claim`; stands behind it."""

    name = "claim-answer"
    methods = (RUNTIME + "StartContainer",)

    def on_request(self, call: Call) -> RequestVerdict:
        """Answers with what came of the work."""
        if NOTE not in call.notes:
            return PASS
        error = call.notes[NOTE]
        return Refuse(error) if error else Answer(cri.StartContainerResponse())
