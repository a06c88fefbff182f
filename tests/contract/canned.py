# SPDX-License-Identifier: Apache-2.0
"""The answers of a small, lifeless CRI runtime: one pod with one container, and what kubelet asks.

The pod's annotations and ids are the ones that tests name.
"""

from __future__ import annotations

from cri_proto import runtime_v1_pb2 as cri
from shim.core.methods import IMAGE, RUNTIME

SANDBOX_ID = "5a" * 32
CONTAINER_ID = "c0" * 32
POD = "shop/basket-0"
CONTAINER = "basket"


def _version() -> bytes:
    answer = cri.VersionResponse(
        version="0.1.0",
        runtime_name="containerd",
        runtime_version="v2.1.9",
        runtime_api_version="v1",
    )
    return answer.SerializeToString()


def sandbox(**annotations: str) -> cri.PodSandbox:
    """The pod that is there from the start."""
    namespace, name = POD.split("/")
    return cri.PodSandbox(
        id=SANDBOX_ID,
        metadata=cri.PodSandboxMetadata(namespace=namespace, name=name, uid="uid-of-basket"),
        annotations=annotations,
    )


def sandbox_list(*sandboxes: cri.PodSandbox) -> bytes:
    """A ListPodSandbox reply."""
    return cri.ListPodSandboxResponse(items=sandboxes).SerializeToString()


def container_list() -> bytes:
    """A ListContainers reply."""
    return cri.ListContainersResponse(
        containers=[
            cri.Container(
                id=CONTAINER_ID,
                pod_sandbox_id=SANDBOX_ID,
                metadata=cri.ContainerMetadata(name=CONTAINER),
            )
        ]
    ).SerializeToString()


def _status() -> bytes:
    conditions = [
        cri.RuntimeCondition(type=name, status=True) for name in ("RuntimeReady", "NetworkReady")
    ]
    return cri.StatusResponse(status=cri.RuntimeStatus(conditions=conditions)).SerializeToString()


def _image_filesystem() -> bytes:
    return cri.ImageFsInfoResponse(
        image_filesystems=[cri.FilesystemUsage(timestamp=1)]
    ).SerializeToString()


_ANSWERS = {
    RUNTIME + "Version": _version(),
    RUNTIME + "Status": _status(),
    RUNTIME + "RuntimeConfig": cri.RuntimeConfigResponse(
        linux=cri.LinuxRuntimeConfiguration(cgroup_driver=cri.CGROUPFS)
    ).SerializeToString(),
    RUNTIME + "ListPodSandbox": sandbox_list(sandbox()),
    RUNTIME + "ListContainers": container_list(),
    RUNTIME + "RunPodSandbox": cri.RunPodSandboxResponse(
        pod_sandbox_id="ab" * 32
    ).SerializeToString(),
    RUNTIME + "CreateContainer": cri.CreateContainerResponse(
        container_id="cd" * 32
    ).SerializeToString(),
    RUNTIME + "StartContainer": b"",
    RUNTIME + "StopContainer": b"",
    RUNTIME + "RemoveContainer": b"",
    RUNTIME + "StopPodSandbox": b"",
    RUNTIME + "RemovePodSandbox": b"",
    IMAGE + "ImageFsInfo": _image_filesystem(),
    IMAGE + "ListImages": b"",
}


def canned_reply(method: str, request: bytes) -> bytes | None:
    """The reply to a method, None for one that this runtime does not have."""
    return _ANSWERS.get(method)


def run_request(
    name: str = "basket-1", namespace: str = "shop", **annotations: str
) -> cri.RunPodSandboxRequest:
    """A RunPodSandbox request."""
    return cri.RunPodSandboxRequest(
        config=cri.PodSandboxConfig(
            metadata=cri.PodSandboxMetadata(name=name, namespace=namespace, uid=f"uid-of-{name}"),
            annotations=annotations,
        )
    )
