# SPDX-License-Identifier: Apache-2.0
"""Makes nodes between which pods move: podferry on each, its monitors, certificates, kubelet."""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from shim.network.rtnetlink import ROUTE_PROTOCOL
from shim.peers import authority
from tests.testbed import front, service
from tests.testbed.kubelet import Kubelet, Pod, stop_patiently
from tests.testbed.node import Node
from tests.testbed.process import POLL_S, Result
from tests.testbed.service import PODFERRY, Shim

PEER_PORT = 9848
PAGES_PORT = 9849
PKI = "/etc/podferry/pki"
DEADLINE_S = 30.0

# What a move must not leave behind once its pod is gone from a node.
PLACES = (
    "/run/podferry/images",
    "/run/podferry/departing",
    "/run/podferry/stores",
    "/run/podferry/mounts",
    "/run/podferry/claims/k8s.io",
    "/sys/fs/bpf/podferry/hold",
)


class MovingNode:
    """One of them.

    Args:
        name: by which the others know it.
        node: the machine.
        settings: the text of its settings.
    """

    def __init__(self, name: str, node: Node, settings: str) -> None:
        self.name = name
        self.node = node
        self.settings = settings
        self.shim = Shim(node, settings)
        self.kubelet = Kubelet(node, service.SOCKET)

    def restart(self, env: dict[str, str]) -> None:
        """Starts the service anew, with these variables beside its own."""
        if self.shim.daemon.is_running():
            self.shim.stop()
        self.shim = Shim(self.node, self.settings, env)
        self.shim.start()

    def command(self, *words: str, check: bool = True) -> Result:
        """Runs podferry."""
        result = self.node.exec([PODFERRY, *words], check=False)
        if check:
            assert result.status == 0, f"{words}: {result.stderr.decode()}\n{self.log()}"
        return result

    def migrate(self, pod: Pod, to: MovingNode, *words: str) -> dict[str, Any]:
        """Moves a pod; must succeed. Its figures."""
        return self.migrate_sandbox(pod.sandbox_id, to, *words)

    def migrate_sandbox(self, sandbox_id: str, to: MovingNode, *words: str) -> dict[str, Any]:
        """Moves the pod of a sandbox; must succeed. Its figures."""
        said = self.command("migrate", sandbox_id, "--to", to.name, "--output", "json", *words).text
        answer: dict[str, Any] = json.loads(said)
        return answer

    def migrations(self) -> list[dict[str, Any]]:
        """What it knows of moves."""
        found: list[dict[str, Any]] = json.loads(
            self.command("migrations", "--output", "json").text
        )
        return found

    def pods(self) -> list[dict[str, Any]]:
        """What `podferry pods` says."""
        found: list[dict[str, Any]] = json.loads(self.command("pods", "--output", "json").text)
        return found

    def sandbox_of(self, uid: str) -> str:
        """The sandbox in which the pod of a UID runs here, "" if it runs not here."""
        for one in self.pods():
            if one["uid"] == uid and one["state"] == "running":
                return str(one["sandbox_id"])
        return ""

    def processes(self, name: str) -> list[str]:
        """Pids of the node's processes of a name."""
        return self.node.exec(["pgrep", "-x", name], check=False).text.split()

    def left(self) -> list[str]:
        """What a move would leave behind."""
        found = [
            str(one)
            for place in PLACES
            if self.node.path(place).is_dir()
            for one in self.node.path(place).iterdir()
        ]
        routes = self.node.exec(
            ["ip", "route", "show", "proto", str(ROUTE_PROTOCOL)]
        ).text.splitlines()
        return found + routes

    def log(self) -> str:
        """The end of its service's log."""
        return self.shim.daemon.log_tail()

    def remove_sandbox(self, sandbox_id: str) -> None:
        """Removes a pod as kubelet does, by its sandbox."""
        cri = self.kubelet.cri
        stop_patiently(cri.stop_pod_sandbox, sandbox_id)
        cri.remove_pod_sandbox(sandbox_id)

    def stop(self) -> None:
        """Ends its service."""
        self.shim.stop()

    def remove_all(self) -> None:
        """Removes whatever pods are there, kubelet's own too."""
        self.kubelet.pods.clear()
        for sandbox in self.kubelet.cri.list_pod_sandbox():
            self.remove_sandbox(sandbox.id)


def eventually(holds: Callable[[], object], *nodes: MovingNode) -> None:
    """Waits until something holds; what nodes have left and their logs are shown if it does not."""
    until = time.monotonic() + DEADLINE_S
    while not holds():
        told = [f"{one.name}: {one.log()}\nleft: {one.left()}" for one in nodes]
        assert time.monotonic() < until, "\n".join(told)
        time.sleep(POLL_S)


@contextlib.contextmanager
def moving(nodes: Sequence[Node], extra: str = "") -> Iterator[list[MovingNode]]:
    """podferry on each of some nodes that know each other; started, and ended with their pods.

    Args:
        nodes: the machines.
        extra: more settings, TOML.
    """
    names = [f"node-{chr(ord('a') + number)}" for number in range(len(nodes))]
    table = "\n".join(
        f'{name} = "{node.address}:{PEER_PORT}"' for name, node in zip(names, nodes, strict=True)
    )
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        authority.make_authority(scratch / "ca")
        made = []
        for name, node in zip(names, nodes, strict=True):
            service.install(node)
            stack.enter_context(front.installed(node))
            authority.issue(scratch / "ca", name, scratch / name)
            for file in (scratch / name).iterdir():
                mode = 0o600 if file.suffix == ".key" else 0o644
                node.write(f"{PKI}/{file.name}", file.read_bytes(), mode)
            settings = (
                f'[peers]\nnode = "{name}"\nlisten = "{node.address}:{PEER_PORT}"\n'
                f"pages_port = {PAGES_PORT}\n[peers.nodes]\n{table}\n{extra}"
            )
            made.append(MovingNode(name, node, settings))
        for one in made:
            one.shim.start()
            stack.callback(one.stop)
            stack.callback(one.kubelet.cri.close)
            stack.callback(one.remove_all)
        yield made
