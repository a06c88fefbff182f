# SPDX-License-Identifier: Apache-2.0
"""Counts the moves of this node for Prometheus: how they ended, what their phases took."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

from prometheus_client import Counter, Histogram
from prometheus_client.core import Metric

from shim.core.migration import SourceStep, TargetStep
from shim.migration.figures import SOURCE_SPANS, TARGET_SPANS, Figures, Span

SOURCE, TARGET = "source", "target"
OPEN = "open"
"""A move that this process has left without an end: the next one finds it in its journal."""

# A phase inside the freeze takes milliseconds, a copy of a large pod minutes.
_PHASE_BUCKETS_S = (
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0,
)  # fmt: skip
_FROZEN_BUCKETS_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 30.0)

# How many series there are must not depend on how many pods move: no pod and no node is a label.
_SOURCE_ENDS = frozenset({SourceStep.SETTLED, SourceStep.ABANDONED})


class MoveMetrics:
    """What a scrape sees of moves; a collector of prometheus-client, for a registry to take."""

    def __init__(self) -> None:
        self._moves = Counter(
            "podferry_moves", "Moves ended, on either side.", ["side", "outcome"], registry=None
        )
        self._phases = Histogram(
            "podferry_move_phase_seconds",
            "Time of the phases that a move has gone through.",
            ["side", "phase"],
            buckets=_PHASE_BUCKETS_S,
            registry=None,
        )
        self._frozen = Histogram(
            "podferry_move_frozen_seconds",
            "How long pods that left, or were to leave, stood still.",
            ["outcome"],
            buckets=_FROZEN_BUCKETS_S,
            registry=None,
        )
        self._bytes = Counter(
            "podferry_move_sent_bytes",
            "Bytes sent to other nodes while the pod ran and while it stood still.",
            ["what", "when"],
            registry=None,
        )
        self._packets = Counter(
            "podferry_move_held_packets",
            "Packets that waited for a moving pod.",
            ["side"],
            registry=None,
        )

    def collect(self) -> Iterable[Metric]:
        """All of it."""
        parts = (self._moves, self._phases, self._frozen, self._bytes, self._packets)
        return chain.from_iterable(one.collect() for one in parts)

    def left(self, step: SourceStep, figures: Figures) -> None:
        """A departure is over.

        Args:
            step: what is written of it.
            figures: what it took; those of an earlier process are not known.
        """
        outcome = str(step) if step in _SOURCE_ENDS else OPEN
        self._moves.labels(SOURCE, outcome).inc()
        self._observe(SOURCE, figures, SOURCE_SPANS)
        if figures.stood_still_ms:
            self._frozen.labels(outcome).observe(figures.stood_still_ms / 1e3)
        for what, when, count in (
            ("memory", "running", figures.copied_bytes),
            ("files", "running", figures.files_bytes),
            ("memory", "frozen", figures.last_bytes),
            ("files", "frozen", figures.last_files_bytes),
        ):
            self._bytes.labels(what, when).inc(count)

    def came(self, step: TargetStep) -> None:
        """An arrival is decided: it runs here, or never will."""
        self._moves.labels(TARGET, str(step)).inc()

    def arrived(self, figures: Figures) -> None:
        """Nothing is left to do for an arrival, whichever way it went."""
        self._observe(TARGET, figures, TARGET_SPANS)

    def _observe(self, side: str, figures: Figures, spans: Iterable[Span]) -> None:
        for phase, took_ms in figures.reached_ms(spans).items():
            self._phases.labels(side, phase).observe(took_ms / 1e3)
        self._packets.labels(side).inc(figures.held_packets)
