# SPDX-License-Identifier: Apache-2.0
"""Resident memory after large replies: containers with large annotations, listed one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc

from cri_proto import runtime_v1_pb2 as cri
from tests.bench.process import NodeProcess
from tests.testbed.kubelet import Kubelet
from tests.testbed.node import Node
from tests.testbed.pods import ContainerSpec, PodSpec, container_config, sandbox_config

MIB = 1 << 20
LOADS = ((MIB, 1000), (15 * MIB, 10))


def after_large_replies(node: Node, shim: str, process: NodeProcess) -> dict[str, Any]:
    """Lists a container of 1 MiB a thousand times and one of 15 MiB ten times.

    Args:
        node: where.
        shim: path of our socket inside the node.
        process: ours.
    """
    spec = PodSpec("large", (ContainerSpec("c", command=("sleep", "1")),), host_network=True)
    config = sandbox_config(spec)
    peak = process.rss_bytes()
    with Kubelet(node) as kubelet:
        sandbox = kubelet.cri.run_pod_sandbox(config)
        try:
            for size_bytes, times in LOADS:
                large = container_config(spec, spec.containers[0], attempt=size_bytes // MIB)
                del large.mounts[:]
                large.annotations["bench.podferry.dev/filler"] = "x" * size_bytes
                container = kubelet.cri.create_container(sandbox, large, config)
                peak = max(peak, _list(node.path(shim), container, times, size_bytes, process))
        finally:
            kubelet.cri.stop_pod_sandbox(sandbox)
            kubelet.cri.remove_pod_sandbox(sandbox)
    return {
        "rss_mib_after_large_replies": round(process.rss_bytes() / MIB, 1),
        "rss_mib_peak_sampled": round(peak / MIB, 1),
    }


def _list(socket: Path, container: str, times: int, at_least_bytes: int, of: NodeProcess) -> int:
    options = [("grpc.max_receive_message_length", 64 * MIB)]
    request = cri.ListContainersRequest(filter=cri.ContainerFilter(id=container))
    peak = 0
    with grpc.insecure_channel(f"unix:{socket}", options=options) as channel:
        call = channel.unary_unary("/runtime.v1.RuntimeService/ListContainers")
        for turn in range(times):
            reply = call(request.SerializeToString())
            if len(reply) < at_least_bytes:
                raise RuntimeError(f"reply has {len(reply)} bytes, wanted are {at_least_bytes}")
            if turn % 10 == 0:
                peak = max(peak, of.rss_bytes())
    return peak
