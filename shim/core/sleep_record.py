# SPDX-License-Identifier: Apache-2.0
"""What is written down of a pod's sleep, and what a service that starts does about each record.

A record is written before the step that it names, and removed when nothing is left of the sleep.
"""

from __future__ import annotations

import enum
from collections.abc import Collection
from dataclasses import dataclass

from shim.core.launch import Sleeper


class Step(enum.StrEnum):
    """How far a pod's sleep has come."""

    FALLING = "falling asleep"  # nothing of it may be trusted
    ASLEEP = "asleep"  # images are complete and have their manifest
    WAKING = "waking"


class Seen(enum.StrEnum):
    """What a container's monitor says."""

    RUNNING = "running"
    ASLEEP = "asleep"
    GONE = "gone"


class Remedy(enum.StrEnum):
    """What is done about a record at the start of a service."""

    ADOPT = "adopt"  # it sleeps: watch it again
    WAKE = "wake"  # half of it sleeps, or its images are not known to be whole
    CLEAN = "clean"  # nothing of it sleeps: take the left-overs away


@dataclass(frozen=True, slots=True)
class Bed:
    """One container of a sleeping pod.

    Attributes:
        name: in the pod.
        sleeper: what its restore needs.
        images: the directory of its images.
        clone: where the clone of its mount tree is mounted.
    """

    name: str
    sleeper: Sleeper
    images: str
    clone: str


@dataclass(frozen=True, slots=True)
class SleepRecord:
    """A pod's sleep.

    Attributes:
        sandbox_id: of its sandbox; names the record and the hold.
        pod: namespace/name.
        uid: of the pod.
        step: how far it has come.
        beds: its containers.
        addresses: the pod's, for the hold; none if nothing is held.
        since_s: when it began, wall clock.
    """

    sandbox_id: str
    pod: str
    uid: str
    step: Step
    beds: tuple[Bed, ...]
    addresses: tuple[str, ...]
    since_s: float


def recover(step: Step, seen: Collection[Seen]) -> Remedy:
    """What to do about a record, by its step and what the monitors of its containers say.

    Containers that are gone are nobody's concern; the others sleep together or not at all.
    """
    there = [one for one in seen if one is not Seen.GONE]
    if Seen.ASLEEP not in there:
        return Remedy.CLEAN
    if Seen.RUNNING in there or step is not Step.ASLEEP:
        return Remedy.WAKE
    return Remedy.ADOPT
