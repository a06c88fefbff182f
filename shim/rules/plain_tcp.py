# SPDX-License-Identifier: Apache-2.0
"""Lets a new pod speak plain TCP where its programs ask for MPTCP, which cannot be dumped.

Trigger: RunPodSandbox of a managed pod with a network of its own has succeeded. Effect: the sysctl
net.mptcp.enabled is 0 in the pod's namespace before its first container is made. On failure: the
pod runs as it would without podferry, and `podferry explain` names the sockets.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from shim.core.methods import RUNTIME
from shim.core.policy import Policy
from shim.core.rules import PASS, BaseRule, Call, Message, ReplyVerdict
from shim.errors import PodferryError

logger = logging.getLogger(__name__)


class PlainTcp(BaseRule):
    """The rule that switches MPTCP off.

    Args:
        policy: which pods are managed.
        switch_off: does it in the network namespace of a sandbox; False where there is nothing to
            do.
    """

    name = "plain-tcp"
    methods = (RUNTIME + "RunPodSandbox",)

    def __init__(self, policy: Policy, switch_off: Callable[[str], bool]) -> None:
        self._policy = policy
        self._switch_off = switch_off

    def on_reply(self, call: Call, reply: Message) -> ReplyVerdict:
        """Does it; takes well under a millisecond."""
        sandbox = call.subject.sandbox
        if sandbox is None or not self._policy.manages(sandbox.namespace, sandbox.wishes):
            return PASS
        try:
            self._switch_off(reply.pod_sandbox_id)
        except PodferryError as error:
            logger.warning("MPTCP stays on pod=%s error=%s", sandbox.pod, error)
        return PASS
