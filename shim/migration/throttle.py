# SPDX-License-Identifier: Apache-2.0
"""Slows a pod that writes memory faster than the link takes it, by its CPU quota.

The quota that a container has had is written down before it is changed, so that a service that
starts anew gives it back. A container that has none is counted as having all processors.
Source of the files: Documentation/admin-guide/cgroup-v2.rst (cpu.max) and
Documentation/scheduler/sched-bwc.rst (cpu.cfs_quota_us, cgroup v1).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from shim.core.launch import Anatomy
from shim.core.migration import slowed_us

NO_QUOTA = -1
"""cgroup v1's word for none; v2 says "max"."""


def quotas(containers: Sequence[Anatomy]) -> dict[str, int]:
    """The CPU quota of each container in microseconds of a period, -1 for none, by id.

    One whose CPU is not governed by a cgroup is left out: it cannot be slowed.
    """
    found = {}
    for one in containers:
        with contextlib.suppress(OSError, ValueError):
            found[one.container_id] = _read(Path(one.cgroup("cpu")))[0]
    return found


def slow(containers: Sequence[Anatomy], had: Mapping[str, int], share: float) -> None:
    """Gives each container a share of what it had.

    Args:
        containers: of the pod.
        had: their quotas, by `quotas`.
        share: of it, above 0 and below 1.
    """
    processors = len(os.sched_getaffinity(0))
    for one in containers:
        if one.container_id in had:
            with contextlib.suppress(OSError):
                path = Path(one.cgroup("cpu"))
                period_us = _read(path)[1]
                most_us = processors * period_us
                _write(path, slowed_us(had[one.container_id], most_us, share), period_us)


def restore(containers: Sequence[Anatomy], had: Mapping[str, int]) -> None:
    """Gives containers back what they had; may be done again."""
    for one in containers:
        if one.container_id in had:
            with contextlib.suppress(OSError):
                path = Path(one.cgroup("cpu"))
                _write(path, had[one.container_id], _read(path)[1])


def _read(group: Path) -> tuple[int, int]:
    old = group / "cpu.cfs_quota_us"
    if old.exists():
        return int(old.read_text()), int((group / "cpu.cfs_period_us").read_text())
    quota, period = (group / "cpu.max").read_text().split()
    return NO_QUOTA if quota == "max" else int(quota), int(period)


def _write(group: Path, quota_us: int, period_us: int) -> None:
    old = group / "cpu.cfs_quota_us"
    if old.exists():
        old.write_text(str(quota_us))
    else:
        quota = "max" if quota_us == NO_QUOTA else str(quota_us)
        (group / "cpu.max").write_text(f"{quota} {period_us}")
