# SPDX-License-Identifier: Apache-2.0
"""Which gRPC methods CRI has and of what kind they are; knows nothing of their messages.

Source: kubernetes/cri-api pkg/apis/runtime/v1/api.proto, v0.36 (35 + 6 methods) and the two pod
checkpoint methods of KEP-5823 that came after it. A method that is absent here is carried as a
stream in both directions, which on the wire is compatible with every kind.
"""

from __future__ import annotations

RUNTIME = "/runtime.v1.RuntimeService/"
IMAGE = "/runtime.v1.ImageService/"

_RUNTIME_UNARY = """
    Version Status RuntimeConfig UpdateRuntimeConfig
    RunPodSandbox StopPodSandbox RemovePodSandbox PodSandboxStatus ListPodSandbox
    UpdatePodSandboxResources
    CreateContainer StartContainer StopContainer RemoveContainer ListContainers ContainerStatus
    UpdateContainerResources ReopenContainerLog
    ExecSync Exec Attach PortForward
    ContainerStats ListContainerStats PodSandboxStats ListPodSandboxStats ListMetricDescriptors
    ListPodSandboxMetrics
    CheckpointContainer CheckpointPod RestorePod
"""
_RUNTIME_STREAMING = """
    GetContainerEvents StreamPodSandboxes StreamContainers StreamContainerStats
    StreamPodSandboxStats StreamPodSandboxMetrics
"""
_IMAGE_UNARY = "ListImages ImageStatus PullImage RemoveImage ImageFsInfo"

UNARY = frozenset(
    [RUNTIME + name for name in _RUNTIME_UNARY.split()]
    + [IMAGE + name for name in _IMAGE_UNARY.split()]
)
"""Methods carried as unary calls, which costs half of what a stream costs."""


def short(method: str) -> str:
    """The last part of a full method name: what people say ("StartContainer")."""
    return method.rpartition("/")[2]


def label(method: str) -> str:
    """The name of a method in metrics: short for CRI's own methods, "other" for all else.

    Callers choose method names, so an unbounded label would let them fill our memory.
    """
    return short(method) if method in UNARY or method in STREAMING else "other"


STREAMING = frozenset(
    [RUNTIME + name for name in _RUNTIME_STREAMING.split()] + [IMAGE + "StreamImages"]
)
"""CRI's server-streaming methods."""
