# SPDX-License-Identifier: Apache-2.0
"""Owns podferry on a node: installs its wheel, starts, stops and kills the service."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc

from shim.installer.content import SYSCTLS
from tests.testbed import wheel
from tests.testbed.cri import CriClient
from tests.testbed.errors import NodeFailed
from tests.testbed.node import Node
from tests.testbed.process import POLL_S, Daemon

PODFERRY = "/opt/podferry/bin/podferry"
SOCKET = "/run/podferry/podferry.sock"
CONFIG = "/etc/podferry/config.toml"
POD_HASH = "net.ipv4.tcp_child_ehash_entries"
READY_DEADLINE_S = 30.0


def install(node: Node) -> None:
    """Puts podferry, as the source tree stands, into the node's /opt/podferry; once per tree."""
    built = wheel.ensure(node.client, node.image)
    stamp = node.path("/opt/podferry/installed-wheel")
    if stamp.exists() and stamp.read_text() == str(built):
        return
    inside = f"/var/tmp/{built.name}"
    node.write(inside, built.read_bytes())
    pip = ["/opt/podferry/bin/pip", "install", "--quiet", "--no-deps", "--no-index"]
    node.exec([*pip, "--force-reinstall", inside])
    node.exec(["ln", "-sf", PODFERRY, "/usr/local/bin/podferry"])
    # As `podferry install` does; of those it sets this is the node's own, not the machine's.
    node.exec(["sysctl", "-qw", f"{POD_HASH}={SYSCTLS[POD_HASH]}"])
    stamp.write_text(str(built))


class Shim:
    """The podferry service of one node; a context manager that stops it.

    Args:
        node: where; podferry must be installed there.
        settings: the text of its config.toml.
        env: more variables for the process.
    """

    def __init__(self, node: Node, settings: str = "", env: dict[str, str] | None = None) -> None:
        self.node = node
        node.write(CONFIG, settings)
        argv = [PODFERRY, "--config", CONFIG, "serve"]
        self.daemon: Daemon = node.daemon("podferry", argv, env)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def socket(self) -> Path:
        """Its CRI socket as the host can dial it."""
        return self.node.path(SOCKET)

    @property
    def pid(self) -> int:
        """Its process, as the node counts."""
        return self.daemon.pid

    def start(self) -> None:
        """Starts it and waits until CRI answers through it."""
        self.daemon.start()
        self.wait_ready()

    def wait_ready(self, deadline_s: float = READY_DEADLINE_S) -> None:
        """Waits until CRI answers through it.

        Raises:
            NodeFailed: it has ended, or does not answer in time; carries the end of its log.
        """
        deadline = time.monotonic() + deadline_s
        last = "no answer"
        with CriClient(self.socket) as client:
            while time.monotonic() < deadline and self.daemon.is_running():
                try:
                    client.version(deadline_s=5.0)
                    return
                except grpc.RpcError as error:
                    last = str(error.details() if isinstance(error, grpc.Call) else error)
                time.sleep(POLL_S)
        state = "does not answer" if self.daemon.is_running() else "has ended"
        raise NodeFailed(
            f"podferry {state} ({last}): {self.daemon.log_tail()}", where=self.node.name
        )

    def stop(self) -> None:
        """SIGTERM, and waits for the end."""
        self.daemon.stop()

    def kill(self) -> None:
        """kill -9, and waits for the end; the socket stays as it was left."""
        self.daemon.stop("KILL")
