# SPDX-License-Identifier: Apache-2.0
"""A typed CRI client that dials as kubelet does; one method per call, messages in and out."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
from google.protobuf.message import Message

from cri_proto import runtime_v1_pb2 as pb

RUNTIME = "/runtime.v1.RuntimeService"
IMAGE = "/runtime.v1.ImageService"
BASE_DEADLINE_S = 120.0  # kubelet's runtimeRequestTimeout

# kubelet: 16 MiB, no keepalive, backoff from 100 ms to 3 s, authority "localhost". Retries stay on:
# without a service config only the transparent ones are left, which grpc-go makes too. The probe is
# off because its ping can cost gRPC's C core, which kubelet does not use, a reply that has come.
OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_receive_message_length", 16 << 20),
    ("grpc.max_send_message_length", 16 << 20),
    ("grpc.max_metadata_size", 16 << 20),
    ("grpc.absolute_max_metadata_size", 16 << 20),
    ("grpc.default_authority", "localhost"),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 3000),
    ("grpc.http2.bdp_probe", 0),
    ("grpc.use_local_subchannel_pool", 1),
]

Reply = TypeVar("Reply", bound=Message)
_serial = itertools.count()


class CriClient:
    """Two connections to one socket, as kubelet's: one for the runtime, one for images.

    Args:
        socket: the path of the socket.
        image_socket: another path for image calls, if they have one.
    """

    def __init__(self, socket: Path, image_socket: Path | None = None) -> None:
        self.socket = socket
        self._runtime = grpc.insecure_channel(f"unix://{socket}", options=_options())
        self._image = grpc.insecure_channel(f"unix://{image_socket or socket}", options=_options())

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
        """Hangs up both connections."""
        self._runtime.close()
        self._image.close()

    def call(
        self,
        name: str,
        request: Message,
        reply: type[Reply],
        deadline_s: float | None = BASE_DEADLINE_S,
        *,
        service: str = RUNTIME,
    ) -> Reply:
        """One unary call of any method; no deadline if ``deadline_s`` is None.

        Raises:
            grpc.RpcError: the server's status.
        """
        channel = self._image if service == IMAGE else self._runtime
        multicallable = channel.unary_unary(
            f"{service}/{name}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=reply.FromString,
        )
        answer: Reply = multicallable(request, timeout=deadline_s)
        return answer

    def events(self) -> Any:
        """The stream of container events, with ``cancel()``; no deadline, as kubelet's."""
        return self._runtime.unary_stream(
            f"{RUNTIME}/GetContainerEvents",
            request_serializer=pb.GetEventsRequest.SerializeToString,
            response_deserializer=pb.ContainerEventResponse.FromString,
        )(pb.GetEventsRequest())

    # ---- identity

    def version(self, deadline_s: float = BASE_DEADLINE_S) -> pb.VersionResponse:
        """The runtime's name and versions."""
        return self.call("Version", pb.VersionRequest(), pb.VersionResponse, deadline_s)

    def status(
        self, *, verbose: bool = False, deadline_s: float = BASE_DEADLINE_S
    ) -> pb.StatusResponse:
        """The runtime's conditions."""
        request = pb.StatusRequest(verbose=verbose)
        return self.call("Status", request, pb.StatusResponse, deadline_s)

    def runtime_config(self) -> pb.RuntimeConfigResponse:
        """The runtime's cgroup driver."""
        return self.call("RuntimeConfig", pb.RuntimeConfigRequest(), pb.RuntimeConfigResponse)

    # ---- sandboxes

    def run_pod_sandbox(self, config: pb.PodSandboxConfig, handler: str = "") -> str:
        """Starts a sandbox and returns its id; kubelet allows twice the usual time."""
        request = pb.RunPodSandboxRequest(config=config, runtime_handler=handler)
        reply = self.call("RunPodSandbox", request, pb.RunPodSandboxResponse, 2 * BASE_DEADLINE_S)
        return str(reply.pod_sandbox_id)

    def stop_pod_sandbox(self, sandbox_id: str) -> None:
        """Stops a sandbox and what runs in it."""
        request = pb.StopPodSandboxRequest(pod_sandbox_id=sandbox_id)
        self.call("StopPodSandbox", request, pb.StopPodSandboxResponse)

    def remove_pod_sandbox(self, sandbox_id: str) -> None:
        """Removes a sandbox and its containers."""
        request = pb.RemovePodSandboxRequest(pod_sandbox_id=sandbox_id)
        self.call("RemovePodSandbox", request, pb.RemovePodSandboxResponse)

    def pod_sandbox_status(
        self, sandbox_id: str, *, verbose: bool = False
    ) -> pb.PodSandboxStatusResponse:
        """A sandbox's state and addresses."""
        request = pb.PodSandboxStatusRequest(pod_sandbox_id=sandbox_id, verbose=verbose)
        return self.call("PodSandboxStatus", request, pb.PodSandboxStatusResponse)

    def list_pod_sandbox(
        self, labels: dict[str, str] | None = None, *, deadline_s: float = BASE_DEADLINE_S
    ) -> list[pb.PodSandbox]:
        """The sandboxes with those labels."""
        request = pb.ListPodSandboxRequest(filter=pb.PodSandboxFilter(label_selector=labels or {}))
        reply = self.call("ListPodSandbox", request, pb.ListPodSandboxResponse, deadline_s)
        return list(reply.items)

    # ---- containers

    def create_container(
        self, sandbox_id: str, config: pb.ContainerConfig, sandbox: pb.PodSandboxConfig
    ) -> str:
        """Creates a container and returns its id."""
        request = pb.CreateContainerRequest(
            pod_sandbox_id=sandbox_id, config=config, sandbox_config=sandbox
        )
        reply = self.call("CreateContainer", request, pb.CreateContainerResponse)
        return str(reply.container_id)

    def start_container(self, container_id: str) -> None:
        """Starts a created container."""
        request = pb.StartContainerRequest(container_id=container_id)
        self.call("StartContainer", request, pb.StartContainerResponse)

    def stop_container(self, container_id: str, grace_s: int = 30) -> None:
        """SIGTERM, and SIGKILL after the grace period, which kubelet adds to the deadline."""
        request = pb.StopContainerRequest(container_id=container_id, timeout=grace_s)
        self.call("StopContainer", request, pb.StopContainerResponse, BASE_DEADLINE_S + grace_s)

    def remove_container(self, container_id: str) -> None:
        """Removes a container; a running one is stopped."""
        request = pb.RemoveContainerRequest(container_id=container_id)
        self.call("RemoveContainer", request, pb.RemoveContainerResponse)

    def container_status(
        self, container_id: str, *, verbose: bool = False
    ) -> pb.ContainerStatusResponse:
        """A container's state and times."""
        request = pb.ContainerStatusRequest(container_id=container_id, verbose=verbose)
        return self.call("ContainerStatus", request, pb.ContainerStatusResponse)

    def list_containers(
        self, labels: dict[str, str] | None = None, *, deadline_s: float = BASE_DEADLINE_S
    ) -> list[pb.Container]:
        """The containers with those labels, in every state."""
        request = pb.ListContainersRequest(filter=pb.ContainerFilter(label_selector=labels or {}))
        reply = self.call("ListContainers", request, pb.ListContainersResponse, deadline_s)
        return list(reply.containers)

    def exec_sync(
        self, container_id: str, argv: list[str], timeout_s: int = 0
    ) -> pb.ExecSyncResponse:
        """Runs a command in a container; no time limit means no deadline, as in kubelet."""
        request = pb.ExecSyncRequest(container_id=container_id, cmd=argv, timeout=timeout_s)
        deadline_s = BASE_DEADLINE_S + timeout_s if timeout_s else None
        return self.call("ExecSync", request, pb.ExecSyncResponse, deadline_s)

    def container_stats(self, container_id: str) -> pb.ContainerStats:
        """A container's processor time and memory."""
        request = pb.ContainerStatsRequest(container_id=container_id)
        return self.call("ContainerStats", request, pb.ContainerStatsResponse).stats

    def list_container_stats(self) -> list[pb.ContainerStats]:
        """The same of all containers."""
        request = pb.ListContainerStatsRequest(filter=pb.ContainerStatsFilter())
        return list(self.call("ListContainerStats", request, pb.ListContainerStatsResponse).stats)

    # ---- images

    def image_status(self, name: str) -> pb.ImageStatusResponse:
        """An image's id and size; ``image`` is unset if it is not there."""
        request = pb.ImageStatusRequest(image=pb.ImageSpec(image=name))
        return self.call("ImageStatus", request, pb.ImageStatusResponse, service=IMAGE)

    def list_images(self) -> list[pb.Image]:
        """Every image."""
        request = pb.ListImagesRequest(filter=pb.ImageFilter())
        return list(self.call("ListImages", request, pb.ListImagesResponse, service=IMAGE).images)

    def image_fs_info(self) -> pb.ImageFsInfoResponse:
        """The use of the file system that holds images."""
        return self.call(
            "ImageFsInfo", pb.ImageFsInfoRequest(), pb.ImageFsInfoResponse, service=IMAGE
        )


def _options() -> list[tuple[str, Any]]:
    # Channels with equal targets and options would share one connection; kubelet has two.
    return [*OPTIONS, ("podferry.testbed.channel", next(_serial))]
