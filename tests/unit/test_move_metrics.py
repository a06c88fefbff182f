# SPDX-License-Identifier: Apache-2.0
"""The figures of moves for Prometheus, as a scrape sees them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from cri_proto import peer_pb2 as peer
from shim.core.migration import SourceStep, TargetStep
from shim.migration.arrival import Arrival, Places
from shim.migration.counting import MoveMetrics
from shim.migration.figures import Figures, Round
from shim.migration.journal import MoveJournal
from shim.migration.records import TargetRecord

MARKS = {
    "asked": 1.0, "prepared": 3.0, "held": 7.0, "frozen": 7.002, "dumped": 7.006, "sent": 7.007,
    "staged": 7.01, "gave_up": 7.011, "resumed": 7.012, "flipped": 7.013, "departed": 7.014,
    "settled": 7.5,
}  # fmt: skip


def scraped(metrics: MoveMetrics) -> dict[tuple[str, ...], float]:
    """Values by name and label values, without the buckets; registered as the service does it."""
    registry = CollectorRegistry()
    registry.register(metrics)
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
        if not sample.name.endswith(("_bucket", "_created"))
    }


def test_a_settled_move_counts_its_phases_its_bytes_and_its_packets() -> None:
    metrics = MoveMetrics()
    figures = Figures(
        rounds=[Round(1000, 0.1), Round(200, 0.1)],
        files_bytes=30, last_bytes=4, last_files_bytes=5, held_packets=6, marks=dict(MARKS),
    )  # fmt: skip
    metrics.left(SourceStep.SETTLED, figures)
    metrics.left(SourceStep.SETTLED, figures)
    values = scraped(metrics)
    assert values["podferry_moves_total", "settled", "source"] == 2
    for phase, took_s in {"prepare": 2.0, "copy": 4.0, "dump": 0.004, "settle": 0.486}.items():
        assert values["podferry_move_phase_seconds_count", phase, "source"] == 2
        assert values["podferry_move_phase_seconds_sum", phase, "source"] == pytest.approx(
            2 * took_s
        )
    assert values["podferry_move_frozen_seconds_count", "settled"] == 2
    assert values["podferry_move_frozen_seconds_sum", "settled"] == pytest.approx(0.02)
    assert values["podferry_move_sent_bytes_total", "memory", "running"] == 2400
    assert values["podferry_move_sent_bytes_total", "files", "running"] == 60
    assert values["podferry_move_sent_bytes_total", "frozen", "memory"] == 8
    assert values["podferry_move_sent_bytes_total", "files", "frozen"] == 10
    assert values["podferry_move_held_packets_total", "source"] == 12


def test_an_abandoned_move_counts_no_phase_that_it_has_not_gone_through() -> None:
    metrics = MoveMetrics()
    marks = {name: MARKS[name] for name in ("asked", "prepared", "held", "frozen")}
    metrics.left(SourceStep.ABANDONED, Figures(marks=marks | {"undone": 7.102}))
    metrics.left(SourceStep.ABANDONED, Figures(marks={"asked": 1.0, "undone": 1.1}))
    metrics.left(SourceStep.GAVE_UP, Figures())
    values = scraped(metrics)
    assert values["podferry_moves_total", "abandoned", "source"] == 2
    assert values["podferry_moves_total", "open", "source"] == 1
    phases = {key[1] for key in values if key[0] == "podferry_move_phase_seconds_count"}
    assert phases == {"prepare", "copy", "quiesce"}
    assert values["podferry_move_frozen_seconds_count", "abandoned"] == 1
    assert values["podferry_move_frozen_seconds_sum", "abandoned"] == pytest.approx(0.1)


def test_no_pod_and_no_node_is_a_label() -> None:
    metrics = MoveMetrics()
    metrics.left(SourceStep.SETTLED, Figures(marks=dict(MARKS)))
    metrics.came(TargetStep.RESUMED)
    labels = {key for one in metrics.collect() for sample in one.samples for key in sample.labels}
    assert labels <= {"side", "outcome", "phase", "what", "when", "le"}


class Arriving(Arrival):
    """One whose containers are none, so that it needs no node."""

    async def clean(self) -> None:
        """There is nothing."""


def arrival(tmp_path: Path, metrics: MoveMetrics, step: TargetStep) -> Arriving:
    """One that has come so far."""
    nothing: Any = None
    places = Places(nothing, nothing, tmp_path, tmp_path, nothing, metrics)
    record = TargetRecord("m1", "l1", 1, step, "node-a", "default/web")
    log = MoveJournal(tmp_path / "arrivals", TargetRecord).begin("m1", record)
    made = Arriving(places, peer.OfferRequest(), log, record, "")
    made.figures.marks |= {"asked": 1.0, "prepared": 3.0}
    return made


def test_a_drop_that_is_asked_again_counts_once(tmp_path: Path) -> None:
    metrics = MoveMetrics()
    made = arrival(tmp_path, metrics, TargetStep.PREPARED)

    async def twice() -> None:
        await made.drop("for a test")
        await made.drop("for a test")

    asyncio.run(twice())
    made.log.close()
    values = scraped(metrics)
    assert values["podferry_moves_total", "dropped", "target"] == 1
    assert values["podferry_move_phase_seconds_sum", "prepare", "target"] == 2.0
    assert values["podferry_move_phase_seconds_count", "prepare", "target"] == 1


def test_a_commit_that_is_asked_again_counts_once(tmp_path: Path) -> None:
    metrics = MoveMetrics()
    made = arrival(tmp_path, metrics, TargetStep.STAGED)

    async def twice() -> None:
        for _ in range(2):
            await made.commit(1)
            assert made.settling is not None
            await made.settling

    asyncio.run(twice())
    made.log.close()
    values = scraped(metrics)
    assert values["podferry_moves_total", "resumed", "target"] == 1
    for phase in ("prepare", "commit", "settle"):
        assert values["podferry_move_phase_seconds_count", phase, "target"] == 1


def test_a_pod_that_came_to_an_earlier_service_is_no_move(tmp_path: Path) -> None:
    metrics = MoveMetrics()
    made = arrival(tmp_path, metrics, TargetStep.RESUMED)
    made.figures.marks.clear()

    async def found() -> None:
        await made.resume_again()
        assert made.settling is not None
        await made.settling

    asyncio.run(found())
    made.log.close()
    assert not [key for key in scraped(metrics) if key[0].startswith("podferry_move")]
