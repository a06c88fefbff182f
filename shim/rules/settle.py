# SPDX-License-Identifier: Apache-2.0
"""Lets calls that name an id wait until the registry knows ids again.

Trigger: a lifecycle or exec call while the registry is being rebuilt, at start or after the
runtime's return. Effect: it waits, for a moment at most. On failure: the call goes on at once, its
subject unknown.
"""

from __future__ import annotations

from shim.core.registry import Registry
from shim.core.rules import PASS, BaseRule, Call, Hold, RequestVerdict
from shim.rules.remember import Remember
from shim.runtime.recollection import Recollection

AT_MOST_S = 2.0
"""Far below every deadline of kubelet, far above the 20 ms that two lists of 110 pods take."""


class Settle(BaseRule):
    """The rule in front of `Remember`.

    Args:
        registry: asked whether it is complete.
        recollection: what makes it so.
    """

    name = "settle"
    methods = Remember.methods

    def __init__(self, registry: Registry, recollection: Recollection) -> None:
        self._registry = registry
        self._recollection = recollection

    def on_request(self, call: Call) -> RequestVerdict:
        """Holds while the registry is incomplete."""
        if self._registry.complete:
            return PASS
        return Hold(self._recollection.settled(AT_MOST_S), "registry is being rebuilt")
