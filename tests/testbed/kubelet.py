# SPDX-License-Identifier: Apache-2.0
"""Plays kubelet on a node: the same calls in the same order, and the files that kubelet makes."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc

from cri_proto import runtime_v1_pb2 as pb
from tests.testbed import containerd
from tests.testbed.cri import CriClient
from tests.testbed.errors import NodeFailed
from tests.testbed.node import Node
from tests.testbed.pods import ContainerSpec, PodSpec, container_config, sandbox_config
from tests.testbed.process import POLL_S

CRI_VERSION = "0.1.0"
CGROUP_DEADLINE_S = 5.0


@dataclass
class Pod:
    """A pod that was started on a node.

    Attributes:
        spec: its description.
        config: the sandbox's configuration, which CreateContainer wants again.
        sandbox_id: the runtime's id of its sandbox.
        ip: its address; "" on the node's network.
        containers: the runtime's ids by container name.
        attempts: how often each container has been restarted.
    """

    spec: PodSpec
    config: pb.PodSandboxConfig
    sandbox_id: str
    ip: str = ""
    containers: dict[str, str] = field(default_factory=dict)
    attempts: dict[str, int] = field(default_factory=dict)

    @property
    def container_id(self) -> str:
        """The id of its only container."""
        (only,) = self.containers.values()
        return only


def stop_patiently(stop: Callable[..., object], *arguments: object) -> None:
    """Stops something, once more if a container ends by itself at that moment, as kubelet does."""
    try:
        stop(*arguments)
    except grpc.RpcError as error:
        if "ttrpc: closed" not in (error.details() or ""):
            raise
        stop(*arguments)


class Kubelet:
    """Starts and deletes pods over CRI; a context manager that deletes its pods.

    Args:
        node: where.
        socket: the CRI socket as a path of the node: the runtime's own, or the shim's.
    """

    def __init__(self, node: Node, socket: str = containerd.SOCKET) -> None:
        self.node = node
        self.socket = socket
        self.cri = CriClient(node.path(socket))
        self.pods: list[Pod] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Deletes the pods that it has started and hangs up."""
        try:
            self.delete_all()
        finally:
            self.cri.close()

    def redial(self) -> None:
        """Dials anew, as after a restart of kubelet or a reset of its node."""
        self.cri.close()
        self.cri = CriClient(self.node.path(self.socket))

    def delete_all(self) -> None:
        """Deletes its pods without grace; goes on after a failure and tells the first."""
        failures: list[grpc.RpcError] = []
        for pod in [*self.pods]:
            try:
                self.delete_pod(pod, grace_s=0)
            except grpc.RpcError as error:
                failures.append(error)
        if failures:
            raise failures[0]

    def handshake(self) -> str:
        """kubelet's start: Version, ImageFsInfo, RuntimeConfig, Status; returns the runtime's name.

        Raises:
            NodeFailed: an answer with which kubelet would not start.
        """
        version = self.cri.version()
        empty = [one.name for one in version.DESCRIPTOR.fields if not getattr(version, one.name)]
        if empty or version.version != CRI_VERSION:
            raise NodeFailed(f"kubelet refuses this version: {version}", where=self.node.name)
        if not self.cri.image_fs_info().image_filesystems:
            raise NodeFailed("ImageFsInfo names no file system", where=self.node.name)
        self.cri.runtime_config()
        if not all(one.status for one in self.cri.status().status.conditions):
            raise NodeFailed("the runtime is not ready", where=self.node.name)
        return str(version.runtime_name)

    # ---- pods

    def run_pod(self, spec: PodSpec) -> Pod:
        """Starts a pod with the calls that kubelet was seen to make (reference: v1.36).

        Raises:
            grpc.RpcError: the runtime refused; what was started is in ``pods`` and gets deleted.
        """
        self._make_directories(spec)
        config = sandbox_config(spec)
        pod = Pod(spec, config, self.cri.run_pod_sandbox(config))
        self.pods.append(pod)
        pod.ip = str(self.cri.pod_sandbox_status(pod.sandbox_id).status.network.ip)
        for one in spec.containers:
            self.start_container(pod, one)
        for _ in range(2):
            self.cri.pod_sandbox_status(pod.sandbox_id)
        for container_id in pod.containers.values():
            self.cri.container_status(container_id)
        return pod

    def start_container(self, pod: Pod, one: ContainerSpec) -> str:
        """Starts a container of a pod, or the next attempt of one that has ended; returns its id.

        Raises:
            NodeFailed: its image is not on the node.
        """
        attempt = pod.attempts.get(one.name, -1) + 1
        for _ in range(2):  # kubelet asks once for presence and once for the reference
            if not self.cri.image_status(one.image).HasField("image"):
                raise NodeFailed(f"no image {one.image}", where=self.node.name)
        termination_log = self.node.path(f"{pod.spec.directory}/containers/{one.name}/{attempt}")
        termination_log.parent.mkdir(parents=True, exist_ok=True)
        termination_log.touch()
        config = container_config(pod.spec, one, attempt)
        container_id = self.cri.create_container(pod.sandbox_id, config, pod.config)
        pod.containers[one.name] = container_id
        pod.attempts[one.name] = attempt
        self.cri.start_container(container_id)
        return container_id

    def delete_pod(self, pod: Pod, grace_s: int = 30) -> None:
        """Deletes a pod as kubelet does, its directories and cgroups included."""
        for container_id in pod.containers.values():
            stop_patiently(self.cri.stop_container, container_id, grace_s)
        self.cri.stop_pod_sandbox(pod.sandbox_id)
        self.cri.pod_sandbox_status(pod.sandbox_id)
        for container_id in pod.containers.values():
            self.cri.container_status(container_id)
            self.cri.remove_container(container_id)
        self.cri.remove_pod_sandbox(pod.sandbox_id)
        if pod in self.pods:
            self.pods.remove(pod)
        self._remove_directories(pod.spec)

    def exec(
        self, pod: Pod, argv: list[str], container: str = "", timeout_s: int = 30
    ) -> pb.ExecSyncResponse:
        """Runs a command in a container of a pod; in its only one unless named."""
        container_id = pod.containers[container] if container else pod.container_id
        return self.cri.exec_sync(container_id, argv, timeout_s)

    def log(self, pod: Pod, container: str = "") -> str:
        """The log file of a container's present attempt, in CRI's format."""
        name = container or next(iter(pod.containers))
        path = f"{pod.spec.log_directory}/{name}/{pod.attempts[name]}.log"
        return self.node.read(path).decode("utf-8", "replace")

    # ---- kubelet's files

    def _make_directories(self, spec: PodSpec) -> None:
        self.node.path(spec.log_directory).mkdir(parents=True, exist_ok=True)
        directory = self.node.path(spec.directory)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "etc-hosts").write_text(f"127.0.0.1 localhost\n# {spec.name}\n")
        for one in spec.containers:
            for volume in one.mounts:
                path = self.node.path(spec.volume(volume))
                path.mkdir(parents=True, exist_ok=True)
                path.chmod(0o777)  # as kubelet makes an emptyDir

    def _remove_directories(self, spec: PodSpec) -> None:
        shutil.rmtree(self.node.path(spec.directory), ignore_errors=True)
        shutil.rmtree(self.node.path(spec.log_directory), ignore_errors=True)
        for directory in self.node.path(self.node.cgroup_root).glob(f"**{spec.cgroup}"):
            self._remove_cgroup(directory)

    def _remove_cgroup(self, directory: Path) -> None:
        # The last process's exit may still be under way.
        deadline = time.monotonic() + CGROUP_DEADLINE_S
        while directory.exists():
            try:
                directory.rmdir()
            except OSError:
                if time.monotonic() > deadline:
                    raise NodeFailed(f"{directory} is still in use", where=self.node.name) from None
                time.sleep(POLL_S)
