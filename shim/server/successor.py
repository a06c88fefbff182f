# SPDX-License-Identifier: Apache-2.0
"""The process that was started to take the socket over; it outlives the one that started it.

asyncio's own subprocesses are not fit for it: their transport kills a child that still runs when
the transport is collected. A bare program ends so; whether this service would, when it ends after
a good handover, hung on what else still refers to the transport (gRPC's objects did).
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Sequence

TAKEOVER = "--takeover"


def own_command() -> list[str]:
    """The command line of this process, as one that takes over."""
    return [sys.executable, *(a for a in sys.orig_argv[1:] if a != TAKEOVER), TAKEOVER]


class Successor:
    """A child of this process.

    Args:
        command: what to run; it inherits stderr and the environment.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(command)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    async def ended(self) -> int:
        """Waits until it has ended; returns its exit status, below zero for a signal.

        Cancelling the wait leaves the process alone.
        """
        if (status := self._process.poll()) is not None:
            return status
        loop = asyncio.get_running_loop()
        seen = asyncio.Event()
        pidfd = os.pidfd_open(self.pid)
        loop.add_reader(pidfd, seen.set)
        try:
            await seen.wait()
        finally:
            loop.remove_reader(pidfd)
            os.close(pidfd)
        return self._process.wait()

    def kill(self) -> None:
        """Ends it at once; nothing happens if it has ended."""
        self._process.kill()
