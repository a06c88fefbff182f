# SPDX-License-Identifier: Apache-2.0
"""Owns a real kubelet on a node: standalone, with static pods, on a CRI socket of the node."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.conformance import binary
from tests.conformance.kubelet_api import KubeletApi
from tests.testbed.errors import NodeFailed
from tests.testbed.node import Node
from tests.testbed.process import Daemon

CONFIG = "/etc/kubernetes/kubelet.json"
MANIFESTS = "/etc/kubernetes/manifests"
# Here and not in /run: what is bound must outlive nothing but the node.
SYSCTLS = "/run/testbed/sysctls"
POLL_S = 0.2
READY_DEADLINE_S = 120.0

# What kubelet wants of the machine. It would write them, and they are the whole machine's: a plain
# file with the wanted value is bound over each.
WANTED_SYSCTLS = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}
# A line of its log that tells of a CRI call that did not succeed. NotFound is ordinary: what is
# looked at has just been removed.
CRI_ERROR = re.compile(r"code = (?!NotFound|OK)(\w+)")
# In this state kubelet reports its node as NotReady. At its own start it skips as well, because
# it has not yet asked; that has other words.
NOT_READY = re.compile(r"Skipping pod synchronization.*(is down|was last seen active)")


def configuration(socket: str) -> dict[str, Any]:
    """KubeletConfiguration for a test node, cgroup v1 included."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": f"unix://{socket}",
        "staticPodPath": MANIFESTS,
        "fileCheckFrequency": "1s",
        "address": "127.0.0.1",
        "readOnlyPort": 10255,
        "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
        "authorization": {"mode": "AlwaysAllow"},
        "failCgroupV1": False,
        "failSwapOn": False,
        "cgroupDriver": "cgroupfs",
        "maxOpenFiles": 20000,
        "protectKernelDefaults": True,
        "resolvConf": "",
        "imagePullCredentialsVerificationPolicy": "NeverVerify",
        # The node shares the machine's disk, whose fill is not this test's business.
        "evictionHard": {"memory.available": "0%", "nodefs.available": "0%"},
        "imageGCHighThresholdPercent": 100,
    }


class RealKubelet:
    """kubelet as a process of a node; a context manager that stops it.

    Args:
        node: where.
        program: its path on the host.
        socket: the CRI socket, as a path of the node.
    """

    def __init__(self, node: Node, program: Path, socket: str) -> None:
        self.node = node
        self.api = KubeletApi(node)
        self.path = binary.put(node, program)
        argv = [self.path, f"--config={CONFIG}", f"--hostname-override={node.name}", "--v=2"]
        self.daemon: Daemon = node.daemon("kubelet", argv)
        self._socket = socket

    def __enter__(self) -> Self:
        self._prepare()
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.daemon.stop("KILL")

    def start(self) -> None:
        """Starts it and waits until its health endpoint answers.

        Raises:
            NodeFailed: it ends or does not answer in time; carries the end of its log.
        """
        self.daemon.start()
        deadline = time.monotonic() + READY_DEADLINE_S
        while not self.api.is_healthy():
            if not self.daemon.is_running() or time.monotonic() > deadline:
                raise NodeFailed(f"kubelet: {self.daemon.log_tail()}", where=self.node.name)
            time.sleep(POLL_S)

    def version(self) -> str:
        """What it says of itself."""
        return self.node.exec([self.path, "--version"]).text

    def add(self, pod: dict[str, Any]) -> None:
        """Gives it a static pod."""
        self.node.write(f"{MANIFESTS}/{pod['metadata']['name']}.json", json.dumps(pod))

    def remove(self, name: str) -> None:
        """Takes a static pod away."""
        self.node.path(f"{MANIFESTS}/{name}.json").unlink()

    def log_size(self) -> int:
        """How long its log is now; marks the beginning of what ``log_since`` gives."""
        return self.daemon.log_path.stat().st_size

    def log_since(self, mark: int) -> list[str]:
        """The lines of its log from a mark on."""
        with self.daemon.log_path.open("rb") as log:
            log.seek(mark)
            return log.read().decode("utf-8", "replace").splitlines()

    def _prepare(self) -> None:
        self.node.path(MANIFESTS).mkdir(parents=True, exist_ok=True)
        self.node.write(CONFIG, json.dumps(configuration(self._socket), indent=2))
        # kubelet reads the kernel's log for out-of-memory kills and does not start without it.
        self.node.exec(["sh", "-c", "[ -e /dev/kmsg ] || mknod -m 0644 /dev/kmsg c 1 11"])
        for name, value in WANTED_SYSCTLS.items():
            plain = f"{SYSCTLS}/{name.replace('/', '.')}"
            self.node.write(plain, f"{value}\n")
            self.node.exec(["mount", "--bind", plain, f"/proc/sys/{name}"])


def not_ready(lines: list[str]) -> int:
    """How many lines tell that the node would be NotReady."""
    return sum(NOT_READY.search(line) is not None for line in lines)


def cri_errors(lines: list[str]) -> list[str]:
    """The lines that tell of a CRI call that did not succeed."""
    return [line for line in lines if CRI_ERROR.search(line)]
