# SPDX-License-Identifier: Apache-2.0
"""Owns the moves from this node that are over: which of them are remembered, and for how long."""

from __future__ import annotations

import asyncio
import time

from shim.core.migration import SourceStep
from shim.migration.figures import Figures
from shim.migration.journal import MoveJournal
from shim.migration.records import SourceRecord

KEPT_S = 30 * 86400.0
"""How long a departed pod is remembered, whose containers must not be started here again."""
KEPT_IN_MEMORY = 200


class History:
    """Records of moves that are over.

    On disk only the last departure of each pod stays. A move that was given up and of which the
    target knows that has no file any more; `podferry migrations` shows it until the next start.

    Args:
        journal: of the departures.
    """

    def __init__(self, journal: MoveJournal[SourceRecord]) -> None:
        self._journal = journal
        self.moves: dict[str, tuple[SourceRecord, Figures]] = {}

    async def add(self, record: SourceRecord, figures: Figures) -> None:
        """Notes a move that is over, and forgets what is not needed beside it."""
        self.moves[record.move] = (record, figures)
        for move, (one, _) in list(self.moves.items()):
            is_older = one.lineage == record.lineage and one.epoch < record.epoch
            is_old = time.time() - (one.settled_s or one.since_s) > KEPT_S
            if one.step is SourceStep.SETTLED and (is_older or is_old):
                await self.forget_file(move)
                del self.moves[move]
        given_up = [
            move for move, (one, _) in self.moves.items() if one.step is SourceStep.ABANDONED
        ]
        for move in given_up[:-KEPT_IN_MEMORY]:
            del self.moves[move]

    async def forget_file(self, move: str) -> None:
        """Removes what is written of a move."""
        await asyncio.to_thread(self._journal.remove, move)

    def departed(self, uid: str) -> SourceRecord | None:
        """The record of the last move by which a pod has left; None if it never has."""
        gone = [
            record
            for record, _ in self.moves.values()
            if record.uid == uid and record.step in (SourceStep.DEPARTED, SourceStep.SETTLED)
        ]
        return max(gone, key=lambda record: record.epoch, default=None)
