# SPDX-License-Identifier: Apache-2.0
"""A service of a node booted by systemd, with the surface of a hand-started daemon."""

from __future__ import annotations

import time

from tests.testbed.errors import NodeFailed
from tests.testbed.process import POLL_S, Namespaces


class Unit:
    """One systemd service.

    Args:
        inside: the node.
        name: the unit's name with its suffix.
    """

    def __init__(self, inside: Namespaces, name: str) -> None:
        self.inside = inside
        self.name = name

    @property
    def pid(self) -> int:
        """Its main process, as the node counts; 0 if it has none."""
        return int(self.show("MainPID"))

    def show(self, key: str) -> str:
        """One of its properties ("ActiveState", "NRestarts")."""
        return self.inside.run(
            ["systemctl", "show", "--value", f"--property={key}", self.name]
        ).text

    def start(self) -> None:
        """Starts it and waits for its readiness, as systemd understands it."""
        self.inside.run(["systemctl", "start", self.name])

    def is_running(self) -> bool:
        """Whether it is active."""
        return self.show("ActiveState") == "active"

    def forget(self) -> None:
        """Nothing: systemd knows."""

    def signal(self, name: str) -> None:
        """Sends its main process a signal by name; with Restart= systemd brings it back."""
        self.inside.run(["systemctl", "kill", f"--signal={name}", "--kill-whom=main", self.name])

    def stop(self, name: str = "TERM", deadline_s: float = 60.0) -> None:
        """Stops it for good with the named signal first.

        Raises:
            NodeFailed: it still runs at the deadline.
        """
        if name != "TERM" and self.is_running():
            self.signal(name)
        self.inside.run(["systemctl", "stop", self.name], deadline_s=deadline_s)
        deadline = time.monotonic() + deadline_s
        while self.is_running():
            if time.monotonic() > deadline:
                raise NodeFailed(f"{self.name} does not stop", where=self.inside.name)
            time.sleep(POLL_S)

    def log_tail(self, characters: int = 4000) -> str:
        """The end of its journal."""
        argv = ["journalctl", "--no-pager", "--lines=100", f"--unit={self.name}"]
        return self.inside.run(argv, check=False).text[-characters:]
