# SPDX-License-Identifier: Apache-2.0
"""Tells the runtime's front which containers wait for a pod that comes, and sees them wait.

containerd makes the task of a container in StartContainer, so the front learns by a file, made
before that call, that the container it creates is claimed (docs/monitor.md).
"""

from __future__ import annotations

from pathlib import Path

from shim.errors import PodferryError, Refused
from shim.runtime import monitor
from shim.runtime.monitor import Monitor
from shim.runtime.monitor_wire import State


class Claims:
    """The files below one directory.

    Args:
        directory: where the front looks.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def write(self, container_id: str) -> None:
        """Says that a container is claimed, before it is started."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self._directory / container_id).touch(mode=0o600)

    def remove(self, container_id: str) -> None:
        """Takes the word back; nothing if it was not given."""
        (self._directory / container_id).unlink(missing_ok=True)

    @staticmethod
    async def require_claimed(container_id: str) -> None:
        """Makes sure that a container which the runtime has started waits for its processes.

        Raises:
            Refused: it runs by itself, or has no monitor.
        """
        if await monitor_state(container_id) is not State.CLAIMED:
            raise Refused(
                "it has started instead of waiting for its processes",
                where=f"container {container_id}",
                remedy="containerd there must run podferry-runtime: "
                "`podferry install --containerd-runtime --restart-containerd`",
            )


async def monitor_state(container_id: str) -> State | None:
    """What a container's monitor says; None if there is none."""
    try:
        async with Monitor(monitor.find(container_id)) as asked:
            return (await asked.state()).state
    except PodferryError:
        return None
