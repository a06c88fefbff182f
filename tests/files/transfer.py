# SPDX-License-Identifier: Apache-2.0
"""Carries a tree from one directory to another in this process, as two nodes would."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from shim.core.tree_frames import FrameWriter, Operation
from shim.core.trees import Plan, Snapshot
from shim.files.applier import Applier
from shim.files.reading import Figures, Reading
from shim.files.tree import Tree, difference

QUOTA_BYTES = 1 << 40
QUOTA_ENTRIES = 1 << 20


@dataclass
class Transfer:
    """Rounds from a source to a target.

    Attributes:
        source: what is read.
        target: where it is applied.
        received: the tree at the target whose summary is to be equal; None: the target itself.
        reached: what the target has.
    """

    source: Tree
    target: Path
    received: Tree | None = None
    reached: Snapshot | None = None
    frames: list[bytes] = field(default_factory=list)

    def round(
        self, suspicious: Iterable[tuple[int, int]] = (), prove: bool = True
    ) -> tuple[Plan, Figures]:
        """One round; afterwards both ends must be alike."""
        plan = difference(self.reached, self.source.scan(), suspicious)
        reading = Reading(self.source, plan)
        self.frames = []
        with Applier(self.target, QUOTA_BYTES, QUOTA_ENTRIES, devices=True) as applier:
            for frame in reading.frames():
                assert len(frame) <= 1 << 20
                self.frames.append(frame)
                applier.feed(frame)
            said = applier.finish()
        if prove:
            assert (self.received or Tree(self.target)).summary() == said
        self.reached = reading.reached()
        return plan, reading.figures


class OneByOne(FrameWriter):
    """Makes a frame of every record, so that a stream may be cut between any two."""

    @classmethod
    def of(cls, tree: Tree, plan: Plan) -> list[bytes]:
        """The frames of a plan."""
        reading = Reading(tree, plan)
        reading._writer = cls()
        return list(reading.frames())

    def add(
        self, operation: Operation, path: bytes = b"", body: bytes = b"", flags: int = 0
    ) -> Iterator[bytes]:
        yield from super().add(operation, path, body, flags)
        yield from self.flush()
