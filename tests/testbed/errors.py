# SPDX-License-Identifier: Apache-2.0
"""What the testbed raises: each says what failed, where its log is, and what to do about it."""

from __future__ import annotations

from shim.errors import PodferryError, Unavailable


class EngineMissing(Unavailable):
    """No Docker engine answers and none can be started here."""


class ImageFailed(PodferryError):
    """The node image or a test image cannot be made."""


class NodeFailed(PodferryError):
    """A node did not come up, or something on it did not do what was asked."""


class CommandFailed(NodeFailed):
    """A command ended with a status that its caller did not allow.

    Args:
        argv: the command.
        status: its exit status.
        output: both of its streams, of which the tail is told.
        where: the node it ran on.
    """

    def __init__(self, argv: list[str], status: int, output: str, *, where: str) -> None:
        super().__init__(
            f"{' '.join(argv)[:300]} ended with status {status}: {output[-2000:].strip()}",
            where=where,
        )
        self.status = status
