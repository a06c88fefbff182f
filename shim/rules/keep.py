# SPDX-License-Identifier: Apache-2.0
"""Keeps what pods are made by, so that they can be made again on another node.

Trigger: RunPodSandbox, CreateContainer and their removals. Effect: the request is kept beside the
service, in a tmpfs. On failure: nothing of the call; such a pod cannot move, and is told so.
"""

from __future__ import annotations

from shim.core.methods import RUNTIME, short
from shim.core.policy import Policy
from shim.core.rules import PASS, BaseRule, Call, Message, ReplyVerdict
from shim.runtime.recipes import Recipes


class Keep(BaseRule):
    """The rule that keeps.

    Args:
        recipes: where to.
        policy: which pods are managed; of others nothing is kept.
    """

    name = "keep"
    methods = tuple(
        RUNTIME + name
        for name in ("RunPodSandbox", "CreateContainer", "RemoveContainer", "RemovePodSandbox")
    )

    def __init__(self, recipes: Recipes, policy: Policy) -> None:
        self._recipes = recipes
        self._policy = policy

    def on_reply(self, call: Call, reply: Message) -> ReplyVerdict:
        """Keeps or forgets what the runtime has made or removed."""
        name = short(call.method)
        if name == "RemovePodSandbox":
            self._recipes.forget_sandbox(call.request.pod_sandbox_id)
        elif name == "RemoveContainer":
            self._recipes.forget_container(call.request.container_id)
        elif self._managed(call):
            if name == "RunPodSandbox":
                self._recipes.keep_sandbox(reply.pod_sandbox_id, call.request)
            else:
                self._recipes.keep_container(reply.container_id, call.request)
        return PASS

    def _managed(self, call: Call) -> bool:
        sandbox = call.subject.sandbox
        return sandbox is not None and self._policy.manages(sandbox.namespace, sandbox.wishes)
