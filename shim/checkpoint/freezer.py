# SPDX-License-Identifier: Apache-2.0
"""Stops the containers of a pod together, by the cgroup freezer of version 1 or 2.

The state is read in a spin: the kernel's notifications of cgroup v2 come every 10 ms at most, and
CRIU's own polling sleeps 100 ms.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from shim.core.launch import Anatomy
from shim.errors import Unavailable

DEADLINE_S = 1.0


@contextlib.contextmanager
def frozen(containers: Sequence[Anatomy]) -> Iterator[dict[str, str]]:
    """Containers stand still from here on, each until CRIU has it; gives their freezer cgroups.

    At the end, also after a failure, each that still exists is let go.

    Raises:
        Unavailable: a process cannot be stopped in time.
    """
    try:
        yield freeze(containers)
    finally:
        thaw(containers)


def freeze(containers: Sequence[Anatomy]) -> dict[str, str]:
    """Stops containers together; gives the freezer's cgroup of each by the container's id.

    Raises:
        Unavailable: a process cannot be stopped in time; some may stand still.
    """
    groups = {one.container_id: path_of(one) for one in containers}
    for path in groups.values():
        _write(path, True)
    until = time.monotonic() + DEADLINE_S
    for path in groups.values():
        while not _is_frozen(path):
            if time.monotonic() > until:
                raise Unavailable("its processes do not stop", where=str(path))
    return {key: str(path) for key, path in groups.items()}


def thaw(containers: Sequence[Anatomy]) -> None:
    """Lets containers go; nothing for those that are gone or were not stopped."""
    for one in containers:
        with contextlib.suppress(OSError):
            _write(path_of(one), False)


def path_of(container: Anatomy) -> Path:
    """The cgroup that freezes a container."""
    return Path(container.cgroup("freezer"))


def _write(group: Path, freeze: bool) -> None:
    old = group / "freezer.state"
    if old.exists():
        old.write_text("FROZEN" if freeze else "THAWED")
    else:
        (group / "cgroup.freeze").write_text("1" if freeze else "0")


def _is_frozen(group: Path) -> bool:
    old = group / "freezer.state"
    if old.exists():
        return old.read_text().strip() == "FROZEN"
    return "frozen 1" in (group / "cgroup.events").read_text()
