# SPDX-License-Identifier: Apache-2.0
"""Asks and changes the running node: systemctl, kubectl, kernel values, the CRI socket."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from shim.errors import InstallRefused, PodferryError, Unavailable
from shim.installer import content
from shim.installer.kubelet import Kubelet
from shim.installer.manifest import Moment
from shim.installer.plan import ANNOTATION
from shim.installer.steps import Live
from shim.installer.tree import Tree, socket_path

COMMAND_DEADLINE_S = 180.0  # kubelet's and our own start-up included
KUBECTL_DEADLINE_S = 15.0
SOCKET_DEADLINE_S = 30.0
ANSWER_DEADLINE_S = 3.0
# A kubelet's own credentials may change annotations of its own Node object (NodeRestriction).
KUBECONFIGS = ("/etc/kubernetes/admin.conf", "/etc/kubernetes/kubelet.conf")
VERSION_METHOD = "/runtime.v1.RuntimeService/Version"


class Elsewhere:
    """The machine of a root that is not running here: nothing can be asked, nothing done."""

    def run(self, arguments: Sequence[str]) -> None:
        """Never planned without a running node."""
        raise AssertionError(f"not for another root: {arguments}")

    def set_sysctl(self, key: str, value: str) -> None:
        """Never planned without a running node."""
        raise AssertionError(f"not for another root: {key}={value}")

    def await_socket(self, path: str) -> None:
        """Never planned without a running node."""
        raise AssertionError(f"not for another root: {path}")

    def annotate(self, arguments: Sequence[str]) -> bool:
        """Never planned without a running node."""
        raise AssertionError(f"not for another root: {arguments}")

    def moment(self) -> Moment | None:
        """Its boot is still to come."""
        return None


class ThisNode:
    """The node we run on."""

    def look(self, tree: Tree, found: Kubelet, runtime: str) -> Live:
        """Collects what a plan needs to know.

        Raises:
            InstallRefused: this machine was not booted with systemd.
        """
        if not Path("/run/systemd/system").is_dir():
            raise InstallRefused(
                "this machine was not booted with systemd",
                remedy="use --root for a node that is not running, or run `podferry serve`",
            )
        kubectl = self._kubectl() if found.kubeadm else ()
        socket = socket_path(runtime)
        return Live(
            moment=self.moment(),
            service_active=_is_active(content.UNIT_NAME),
            kubelet_active=_is_active(found.unit),
            kubelet_started=self.started(found.unit),
            sysctls={
                key: self._sysctl(key) for key in content.SYSCTLS if _sysctl_file(key).exists()
            },
            kubectl=kubectl,
            annotation=self._annotation(kubectl, found.node_name(tree)) if kubectl else None,
            runtime_name=runtime_name(socket) if socket else None,
        )

    def moment(self) -> Moment:
        """Now, by the clock that process start times use."""
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return Moment(boot_id, round(time.clock_gettime(time.CLOCK_BOOTTIME), 3))

    def run(self, arguments: Sequence[str]) -> None:
        """Runs a command.

        Raises:
            PodferryError: it failed; its last words are in the message.
        """
        result = _run(arguments, COMMAND_DEADLINE_S)
        if result.returncode:
            words = " ".join((result.stderr or result.stdout).split())[-400:]
            raise PodferryError(
                f"failed with status {result.returncode}: {words}",
                where=" ".join(arguments),
                remedy="then run the same podferry command again, it goes on where it stopped",
            )

    def set_sysctl(self, key: str, value: str) -> None:
        """Writes to /proc/sys.

        Raises:
            PodferryError: the kernel refused.
        """
        try:
            _sysctl_file(key).write_text(value + "\n")
        except OSError as error:
            raise PodferryError(f"cannot be set to {value}: {error.strerror}", where=key) from error

    def await_socket(self, path: str) -> None:
        """Waits for an answer to Version, the call kubelet itself starts with.

        Raises:
            Unavailable: none came in time; kubelet still uses its former endpoint.
        """
        deadline = time.monotonic() + SOCKET_DEADLINE_S
        while time.monotonic() < deadline:
            if runtime_name(path) is not None:
                return
            time.sleep(0.1)
        raise Unavailable(
            f"no answer within {SOCKET_DEADLINE_S:.0f} s; kubelet was left as it was",
            where=path,
            remedy=f"see `journalctl -u {content.UNIT_NAME}`, then install again",
        )

    def annotate(self, arguments: Sequence[str]) -> bool:
        """Runs kubectl."""
        try:
            return _run(arguments, KUBECTL_DEADLINE_S).returncode == 0
        except PodferryError:
            return False

    def started(self, unit: str) -> Moment | None:
        """When a unit's main process started, None if it does not run."""
        shown = _run(("systemctl", "show", "--value", "-p", "MainPID", unit), KUBECTL_DEADLINE_S)
        pid = shown.stdout.strip()
        if not pid.isdigit() or pid == "0":
            return None
        return process_start(int(pid), self.moment().boot_id)

    def _sysctl(self, key: str) -> str:
        return _sysctl_file(key).read_text().strip()

    def _kubectl(self) -> tuple[str, ...]:
        program = shutil.which("kubectl")
        config = next((path for path in KUBECONFIGS if Path(path).exists()), None)
        return (program, "--kubeconfig", config) if program and config else ()

    def _annotation(self, kubectl: tuple[str, ...], node: str) -> str | None:
        escaped = ANNOTATION.replace(".", "\\.")
        command = (
            *kubectl,
            "get",
            "node",
            node,
            "-o",
            f"jsonpath={{.metadata.annotations.{escaped}}}",
        )
        try:
            result = _run(command, KUBECTL_DEADLINE_S)
        except PodferryError:
            return None
        return result.stdout.strip() or None if result.returncode == 0 else None


def process_start(pid: int, boot_id: str) -> Moment | None:
    """When a process started, None if it is gone."""
    try:
        # The name in brackets may hold spaces; start time is field 22 (proc_pid_stat(5)).
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return Moment(boot_id, int(fields[19]) / os.sysconf("SC_CLK_TCK"))


def runtime_name(path: str) -> str | None:
    """What the runtime behind a CRI socket calls itself, None if it does not answer."""
    # Only here: grpc takes long to import and an install elsewhere does without it.
    import grpc

    from cri_proto import runtime_v1_pb2 as cri

    if not Path(path).is_socket():
        return None
    options = [("grpc.default_authority", "localhost")]
    with grpc.insecure_channel(f"unix://{path}", options=options) as channel:
        call = channel.unary_unary(VERSION_METHOD)
        try:
            answer = call(cri.VersionRequest().SerializeToString(), timeout=ANSWER_DEADLINE_S)
        except grpc.RpcError:
            return None
    return str(cri.VersionResponse.FromString(answer).runtime_name)


def _sysctl_file(key: str) -> Path:
    return Path("/proc/sys") / key.replace(".", "/")


def _is_active(unit: str) -> bool:
    return _run(("systemctl", "is-active", "--quiet", unit), KUBECTL_DEADLINE_S).returncode == 0


def _run(arguments: Sequence[str], deadline_s: float) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            arguments, capture_output=True, text=True, timeout=deadline_s, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PodferryError(
            f"could not be run: {error}", where=" ".join(arguments), remedy="run it by hand"
        ) from error
