# SPDX-License-Identifier: Apache-2.0
"""What the two journals of a move say; enough for a service that starts to finish or undo it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from shim.core.migration import SourceStep, TargetStep


@dataclass(frozen=True, slots=True)
class SourceRecord:
    """The source's record of a move.

    Attributes:
        move: the move's id.
        lineage: of the pod; survives moves.
        epoch: counts the moves of a lineage.
        step: what is about to be done, or was.
        pod: namespace/name.
        uid: of the pod here.
        sandbox_id: of its sandbox here.
        target: the other node's name.
        containers: name to the runtime's id.
        images: container's name to the directory that CRIU writes into.
        addresses: the pod's.
        target_address: where packets for it go after the commit.
        reason: why it was abandoned, "" otherwise.
        undone: whether an abandoned pod runs on; only the target may not know it yet.
        quotas: the CPU quotas that its containers had before they were slowed, by id.
        since_s: when it began, wall clock.
        settled_s: when nothing was left to do, wall clock.
    """

    move: str
    lineage: str
    epoch: int
    step: SourceStep
    pod: str
    uid: str
    sandbox_id: str
    target: str
    containers: Mapping[str, str] = field(default_factory=dict)
    images: Mapping[str, str] = field(default_factory=dict)
    addresses: tuple[str, ...] = ()
    target_address: str = ""
    reason: str = ""
    undone: bool = False
    quotas: Mapping[str, int] = field(default_factory=dict)
    since_s: float = field(default_factory=time.time)
    settled_s: float = 0.0

    def at(self, step: SourceStep, reason: str = "") -> SourceRecord:
        """The same move, one step on."""
        return dataclasses.replace(self, step=step, reason=reason or self.reason)


@dataclass(frozen=True, slots=True)
class TargetRecord:
    """The target's record of a move.

    Attributes:
        move: the move's id.
        lineage: of the pod.
        epoch: counts the moves of a lineage.
        step: what is about to be done, or was.
        source: the other node's name.
        pod: namespace/name.
        by_kubelet: whether a kubelet has made the replacement.
        uid: of the replacement.
        sandbox_id: of its sandbox.
        netns: the file of its network namespace.
        containers: name to the runtime's id.
        addresses: those that come with the pod.
        own_addresses: those that CNI gave the replacement.
        reason: why it was dropped, "" otherwise.
        since_s: when it began, wall clock.
    """

    move: str
    lineage: str
    epoch: int
    step: TargetStep
    source: str
    pod: str
    by_kubelet: bool = False
    uid: str = ""
    sandbox_id: str = ""
    netns: str = ""
    containers: Mapping[str, str] = field(default_factory=dict)
    addresses: tuple[str, ...] = ()
    own_addresses: tuple[str, ...] = ()
    reason: str = ""
    since_s: float = field(default_factory=time.time)

    def at(self, step: TargetStep, reason: str = "") -> TargetRecord:
        """The same move, one step on."""
        return dataclasses.replace(self, step=step, reason=reason or self.reason)
