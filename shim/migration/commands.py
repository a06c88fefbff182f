# SPDX-License-Identifier: Apache-2.0
"""Answers what the `podferry` command asks of moves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from cri_proto import control_pb2 as pb
from shim.core.migration import SourceStep, TargetStep
from shim.errors import InvalidInput, NotFound, Refused, Unavailable
from shim.migration.figures import Figures, Progress

if TYPE_CHECKING:
    from shim.migration.moves import Moves
    from shim.migration.source import Plan


async def migrate(moves: Moves, request: pb.MigrateRequest) -> AsyncIterator[pb.MigrateResponse]:
    """Plans and makes a move; the last message has the result as JSON.

    Who asked may go away: the move goes on, as it may be in the middle of its freeze.

    Raises:
        NotFound, Refused, Unavailable: the pod runs on here; why, and what to do.
    """
    try:
        plan = await moves.source.plan(request.pod, request.node, by_kubelet=request.claim)
    except Unavailable as error:
        # Of another node: to whom asks, UNAVAILABLE would mean that this service is not there.
        raise Refused(error.what, where=error.where, remedy=error.remedy) from error
    if request.dry_run:
        yield pb.MigrateResponse(phase="plan", text="it can move", result=json.dumps(_plan(plan)))
        return
    queue: asyncio.Queue[Progress | None] = asyncio.Queue()
    work = asyncio.create_task(moves.move(plan, queue.put_nowait))
    work.add_done_callback(lambda _: queue.put_nowait(None))
    while (said := await queue.get()) is not None:
        yield pb.MigrateResponse(
            phase=said.phase, text=said.text, at_s=said.at_s, move=plan.offer.move
        )
    try:
        figures = await work
    except Unavailable as error:
        raise Refused(error.what, where=error.where, remedy=error.remedy) from error
    result = {**_plan(plan), **figures.as_dict()}
    yield pb.MigrateResponse(
        phase="done", text=figures.summary(), move=plan.offer.move, result=json.dumps(result)
    )


def _plan(plan: Plan) -> dict[str, object]:
    return {
        "move": plan.offer.move,
        "pod": plan.pod.label,
        "node": plan.target,
        "lineage": plan.offer.lineage,
        "epoch": plan.offer.epoch,
        "addresses": list(plan.offer.addresses),
        "resident_bytes": plan.offer.resident_bytes,
        "expected_freeze_ms": round(plan.expected_freeze_ms, 1),
        "notes": plan.notes,
    }


def migrations(moves: Moves) -> pb.MigrationsResponse:
    """Every move that this node knows of, the newest last."""
    found = []
    going = [(one.record, one.figures) for one in moves.source.departures.values()]
    for record, figures in [*moves.source.history.moves.values(), *going]:
        found.append(
            pb.MoveState(
                move=record.move, pod=record.pod, direction="out", node=record.target,
                step=record.step, epoch=record.epoch, lineage=record.lineage,
                since_s=record.since_s, reason=record.reason, figures=_figures(figures),
            )
        )  # fmt: skip
    for arrival in moves.target.arrivals.values():
        came = arrival.record
        found.append(
            pb.MoveState(
                move=came.move, pod=came.pod, direction="in", node=came.source, step=came.step,
                epoch=came.epoch, lineage=came.lineage, since_s=came.since_s, reason=came.reason,
            )
        )  # fmt: skip
    found.sort(key=lambda one: one.since_s)
    return pb.MigrationsResponse(moves=found)


def _figures(figures: Figures) -> str:
    return json.dumps(figures.as_dict()) if figures.marks else ""


async def resolve(moves: Moves, move: str, runs: str) -> str:
    """Decides a move whose other node is gone for good; returns what is written then.

    Args:
        moves: the moves of this node.
        move: its id.
        runs: "here" or "there".

    Raises:
        NotFound: there is no such move.
        Refused: it is not in doubt, or the other node answers and decides.
    """
    if runs not in ("here", "there"):
        raise InvalidInput(f"it is {runs!r}, wanted is 'here' or 'there'", where="runs")
    departure = moves.source.departures.get(move)
    if departure is not None:
        if departure.record.step is not SourceStep.GAVE_UP:
            raise Refused(
                f"it is not in doubt, it is {departure.record.step}", where=f"move {move}"
            )
        await departure.decide(here=runs == "here")
        return str(departure.record.step)
    arrival = moves.target.arrivals.get(move)
    if arrival is None:
        raise NotFound("no such move is under way here", where=f"move {move}")
    if arrival.record.step is not TargetStep.STAGED:
        raise Refused(f"it is not in doubt, it is {arrival.record.step}", where=f"move {move}")
    if runs == "here":
        await arrival.commit(arrival.record.epoch)
    else:
        await arrival.drop("by command")
    return str(arrival.record.step)
