# SPDX-License-Identifier: Apache-2.0
"""Asks the runtime, over CRI, who it is and what runs on the node."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from cri_proto import runtime_v1_pb2 as cri
from shim.core.methods import IMAGE, RUNTIME
from shim.core.policy import SILENT, Wishes, read_annotations
from shim.core.registry import Container, Sandbox
from shim.errors import InvalidAnnotation, InvalidMessage, Refused, Unavailable

logger = logging.getLogger(__name__)

LIST_TIMEOUT_S = 10.0
VERSION_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class Listing:
    """All sandboxes and containers of the runtime at one moment."""

    sandboxes: list[Sandbox]
    containers: list[Container]


async def version(channel: grpc.aio.Channel) -> cri.VersionResponse:
    """The runtime's name and version.

    Raises:
        grpc.aio.AioRpcError: it does not answer, or answers with an error.
        InvalidMessage: its answer cannot be decoded.
    """
    answer: cri.VersionResponse = await _call(
        channel, "Version", cri.VersionRequest(), VERSION_TIMEOUT_S
    )
    return answer


async def list_all(channel: grpc.aio.Channel) -> Listing:
    """Everything the runtime has; sandboxes first, so that no container comes without its own.

    Raises:
        grpc.aio.AioRpcError: it does not answer, or answers with an error.
        InvalidMessage: its answer cannot be decoded.
    """
    pods = await _call(channel, "ListPodSandbox", cri.ListPodSandboxRequest(), LIST_TIMEOUT_S)
    made = await _call(channel, "ListContainers", cri.ListContainersRequest(), LIST_TIMEOUT_S)
    return Listing(
        [_sandbox(item) for item in pods.items],
        [
            Container(c.id, c.pod_sandbox_id, c.metadata.name, c.metadata.attempt)
            for c in made.containers
        ],
    )


async def addresses(channel: grpc.aio.Channel, sandbox_id: str) -> list[str]:
    """The addresses of a pod; none if it uses the node's network.

    Raises:
        Unavailable: the runtime does not say.
    """
    request = cri.PodSandboxStatusRequest(pod_sandbox_id=sandbox_id)
    try:
        answer = await _call(channel, "PodSandboxStatus", request, LIST_TIMEOUT_S)
    except grpc.aio.AioRpcError as error:
        raise Unavailable(
            f"the runtime does not tell its addresses: {error.details()}",
            where=f"sandbox {sandbox_id}",
        ) from error
    network = answer.status.network
    return [one for one in (network.ip, *(more.ip for more in network.additional_ips)) if one]


async def container_status(channel: grpc.aio.Channel, container_id: str) -> cri.ContainerStatus:
    """CRI's status of a container.

    Raises:
        Unavailable: the runtime does not say.
    """
    request = cri.ContainerStatusRequest(container_id=container_id)
    try:
        answer: cri.ContainerStatusResponse = await _call(
            channel, "ContainerStatus", request, LIST_TIMEOUT_S
        )
    except grpc.aio.AioRpcError as error:
        raise Unavailable(
            f"the runtime does not tell its status: {error.details()}",
            where=f"container {container_id}",
        ) from error
    return answer.status


async def end_container(channel: grpc.aio.Channel, container_id: str) -> None:
    """Kills a container, without grace.

    Raises:
        Unavailable: the runtime does not do it.
    """
    request = cri.StopContainerRequest(container_id=container_id, timeout=0)
    try:
        await _call(channel, "StopContainer", request, LIST_TIMEOUT_S)
    except grpc.aio.AioRpcError as error:
        raise Unavailable(
            f"the runtime does not end it: {error.details()}", where=f"container {container_id}"
        ) from error


def _sandbox(item: cri.PodSandbox) -> Sandbox:
    return Sandbox(
        sandbox_id=item.id,
        namespace=item.metadata.namespace,
        name=item.metadata.name,
        uid=item.metadata.uid,
        attempt=item.metadata.attempt,
        labels=dict(item.labels),
        wishes=_wishes(item),
        runtime_handler=item.runtime_handler,
    )


def _wishes(item: cri.PodSandbox) -> Wishes:
    try:
        return read_annotations(item.annotations)
    except InvalidAnnotation as error:
        # It was made before podferry was here, or past it; it runs, so there is nobody to refuse.
        logger.warning(
            "annotation ignored pod=%s/%s reason=%r",
            item.metadata.namespace, item.metadata.name, str(error),
        )  # fmt: skip
        return SILENT


async def call(
    channel: grpc.aio.Channel, name: str, request: Any, timeout_s: float | None = LIST_TIMEOUT_S
) -> Any:
    """Any call; for those who act on the runtime in somebody's place.

    Raises:
        Refused, Unavailable: the runtime's refusal, in its words; or it does not answer.
    """
    service = IMAGE if name in ("ImageStatus", "PullImage") else RUNTIME
    try:
        return await _call(channel, name, request, timeout_s, service)
    except grpc.aio.AioRpcError as error:
        silent = error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
        kind = Unavailable if silent else Refused
        raise kind(f"the runtime refuses {name}: {error.code().name}: {error.details()}") from error


async def _call(
    channel: grpc.aio.Channel,
    name: str,
    request: Any,
    timeout_s: float | None,
    service: str = RUNTIME,
) -> Any:
    data = await channel.unary_unary(service + name)(request.SerializeToString(), timeout=timeout_s)
    try:  # here and not by grpc.aio, which logs the error and gives None
        return getattr(cri, f"{name}Response").FromString(data)
    except DecodeError as error:
        raise InvalidMessage("the runtime's reply is no such message", where=name) from error


async def default_handler(channel: grpc.aio.Channel) -> str:
    """The OCI runtime (BinaryName) of the runtime's default handler, "" if it is the built-in one.

    Raises:
        Unavailable: the runtime does not say.
    """
    try:
        answer = await _call(channel, "Status", cri.StatusRequest(verbose=True), LIST_TIMEOUT_S)
        config = json.loads(answer.info.get("config", "{}"))
        made = config["containerd"]
        return str(made["runtimes"][made["defaultRuntimeName"]]["options"].get("BinaryName", ""))
    except grpc.aio.AioRpcError as error:
        raise Unavailable(f"the runtime does not answer: {error.details()}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Unavailable(f"the runtime does not tell its handlers: {error!r}") from error
