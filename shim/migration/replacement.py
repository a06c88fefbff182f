# SPDX-License-Identifier: Apache-2.0
"""Makes the pod on the target that a moving pod's processes go into, where no kubelet does.

The source's own requests are repeated. A name is reserved by the runtime together with its attempt,
so the attempt is the epoch of the move: a pod may come back to a node that still has its old
sandbox.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from cri_proto import peer_pb2 as peer
from cri_proto import runtime_v1_pb2 as cri
from shim.errors import PodferryError, Refused
from shim.migration import staging
from shim.runtime import claims, containerd
from shim.runtime.recipes import Recipes

MOVE_LABEL = "podferry.dev/move"
"""The label of a sandbox made here, with the move: there before a journal can name the sandbox."""
MAKE_TIMEOUT_S = 120.0
PULL_TIMEOUT_S = 600.0


@dataclass(slots=True)
class Replacement:
    """The pod that waits for its processes.

    Attributes:
        uid: of the pod.
        sandbox_id: of its sandbox.
        addresses: that CNI gave it.
        containers: name to the runtime's id.
        created: name to what each container was made by.
    """

    uid: str
    sandbox_id: str
    addresses: tuple[str, ...] = ()
    containers: dict[str, str] = field(default_factory=dict)
    created: dict[str, cri.CreateContainerRequest] = field(default_factory=dict)


async def require_images(channel: grpc.aio.Channel, containers: Sequence[peer.Container]) -> None:
    """Pulls the images that are not here.

    Raises:
        Refused: one cannot be had.
    """
    for one in containers:
        request = cri.CreateContainerRequest.FromString(one.create_request)
        image = cri.ImageSpec(image=one.image_ref or request.config.image.image)
        asked = await containerd.call(channel, "ImageStatus", cri.ImageStatusRequest(image=image))
        if asked.HasField("image"):
            continue
        try:
            await containerd.call(
                channel, "PullImage", cri.PullImageRequest(image=image), PULL_TIMEOUT_S
            )
        except PodferryError as error:
            raise Refused(
                f"its image cannot be pulled: {error.what}", where=f"container {one.name}, "
                f"image {image.image}", remedy="pull or import it on that node",
            ) from error  # fmt: skip


async def make(
    channel: grpc.aio.Channel, recipes: Recipes, offer: peer.OfferRequest
) -> Replacement:
    """Makes sandbox and containers, claimed: the runtime takes them for running.

    Raises:
        Unavailable, Refused: the runtime's words; what was made is removed again.
    """
    run = cri.RunPodSandboxRequest.FromString(offer.run_request)
    run.config.metadata.attempt = offer.epoch
    run.config.labels[MOVE_LABEL] = offer.move
    if run.config.log_directory:
        await asyncio.to_thread(_make_directory, run.config.log_directory)
    answer = await containerd.call(channel, "RunPodSandbox", run, MAKE_TIMEOUT_S)
    made = Replacement(run.config.metadata.uid, answer.pod_sandbox_id)
    try:
        recipes.keep_sandbox(made.sandbox_id, run)
        made.addresses = tuple(await containerd.addresses(channel, made.sandbox_id))
        for one in offer.containers:
            if not one.finished:
                await _create(channel, recipes, made, one, run, offer.epoch)
        for container_id in made.containers.values():
            claims.announce(container_id)
            start = cri.StartContainerRequest(container_id=container_id)
            await containerd.call(channel, "StartContainer", start, MAKE_TIMEOUT_S)
            await staging.require_claimed(container_id)
    except BaseException:
        await asyncio.shield(remove(channel, recipes, made))
        raise
    return made


async def _create(
    channel: grpc.aio.Channel,
    recipes: Recipes,
    made: Replacement,
    one: peer.Container,
    run: cri.RunPodSandboxRequest,
    epoch: int,
) -> None:
    request = cri.CreateContainerRequest.FromString(one.create_request)
    request.pod_sandbox_id = made.sandbox_id
    request.config.metadata.attempt = epoch
    request.sandbox_config.CopyFrom(run.config)
    answer = await containerd.call(channel, "CreateContainer", request, MAKE_TIMEOUT_S)
    made.containers[one.name] = answer.container_id
    made.created[one.name] = request
    recipes.keep_container(answer.container_id, request)


async def all_made(channel: grpc.aio.Channel) -> dict[str, list[Replacement]]:
    """The replacements that were made on this node and are still there, by move.

    Raises:
        Unavailable, Refused: the runtime's words.
    """
    pods = await containerd.call(channel, "ListPodSandbox", cri.ListPodSandboxRequest())
    held = await containerd.call(channel, "ListContainers", cri.ListContainersRequest())
    found: dict[str, list[Replacement]] = {}
    for pod in pods.items:
        if move := pod.labels.get(MOVE_LABEL):
            containers = {
                one.metadata.name: one.id for one in held.containers if one.pod_sandbox_id == pod.id
            }
            made = Replacement(pod.metadata.uid, pod.id, containers=containers)
            found.setdefault(move, []).append(made)
    return found


async def remove(channel: grpc.aio.Channel, recipes: Recipes, made: Replacement) -> None:
    """Takes away what was made; may be done again."""
    await remove_pod(channel, recipes, made.sandbox_id, made.containers.values())


async def remove_pod(
    channel: grpc.aio.Channel,
    recipes: Recipes,
    sandbox_id: str,
    container_ids: Iterable[str],
) -> None:
    """Takes a replacement away that an earlier process made; may be done again."""
    for container_id in container_ids:
        with contextlib.suppress(PodferryError):
            stop = cri.StopContainerRequest(container_id=container_id, timeout=0)
            await containerd.call(channel, "StopContainer", stop, MAKE_TIMEOUT_S)
        with contextlib.suppress(PodferryError):
            gone = cri.RemoveContainerRequest(container_id=container_id)
            await containerd.call(channel, "RemoveContainer", gone, MAKE_TIMEOUT_S)
        claims.withdraw(container_id)
    with contextlib.suppress(PodferryError):
        halt = cri.StopPodSandboxRequest(pod_sandbox_id=sandbox_id)
        await containerd.call(channel, "StopPodSandbox", halt, MAKE_TIMEOUT_S)
    with contextlib.suppress(PodferryError):
        over = cri.RemovePodSandboxRequest(pod_sandbox_id=sandbox_id)
        await containerd.call(channel, "RemovePodSandbox", over, MAKE_TIMEOUT_S)
    recipes.forget_sandbox(sandbox_id)


def _make_directory(path: str) -> None:
    Path(path).mkdir(mode=0o755, parents=True, exist_ok=True)
