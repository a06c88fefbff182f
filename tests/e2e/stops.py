# SPDX-License-Identifier: Apache-2.0
"""Has a move stand still at a named line of its source, so that a test can act there."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self

from shim.failpoints import VARIABLE
from tests.testbed.errors import NodeFailed
from tests.testbed.moving import DEADLINE_S, MovingNode
from tests.testbed.process import POLL_S, Result

# A source that hears nothing gives up after its longest timeout: STAGE_TIMEOUT_S, 60 s.
PATIENCE_S = 100.0


def arm(node: MovingNode, name: str) -> None:
    """Starts a node's service anew; it will stop at that line, once."""
    node.restart({VARIABLE: f"stop:{name}"})


class Move(threading.Thread):
    """`podferry migrate`, under way; a context manager that lets it go on and waits for its end.

    Args:
        here: the source.
        sandbox_id: of the pod.
        there: the target.
    """

    def __init__(self, here: MovingNode, sandbox_id: str, there: MovingNode) -> None:
        super().__init__(daemon=True)
        self.here = here
        self.words = ("migrate", sandbox_id, "--to", there.name)
        self.result: Result | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.go_on()
        self.join(PATIENCE_S)

    def run(self) -> None:
        self.result = self.here.command(*self.words, check=False)

    @property
    def stands_still(self) -> bool:
        """Whether the service has stopped itself."""
        try:
            stat = self.here.node.read(f"/proc/{self.here.shim.pid}/stat").decode()
        except OSError:
            return False
        return stat.rpartition(")")[2].split()[0] == "T"

    def wait_stopped(self) -> None:
        """Waits until the service stands at its line.

        Raises:
            NodeFailed: the move has ended without coming there, or does not come there in time.
        """
        until = time.monotonic() + DEADLINE_S
        while not self.stands_still:
            if not self.is_alive() or time.monotonic() > until:
                said = self.result.stderr.decode() if self.result else "it is still under way"
                raise NodeFailed(f"the move does not come there: {said}\n{self.here.log()}")
            time.sleep(POLL_S)

    def go_on(self) -> None:
        """Lets the service go on; nothing if it does."""
        if self.stands_still:
            self.here.shim.daemon.signal("CONT")

    def ended(self) -> Result:
        """What the command has given in the end.

        Raises:
            NodeFailed: it does not end.
        """
        self.join(PATIENCE_S)
        if self.result is None:
            raise NodeFailed(f"the move does not end\n{self.here.log()}")
        return self.result
