# SPDX-License-Identifier: Apache-2.0
"""Latency that the shim adds to small calls and to the start of a pod, both paths by turns."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc

from cri_proto import runtime_v1_pb2 as cri
from tests.bench.figures import percentile, spread
from tests.testbed.kubelet import Kubelet
from tests.testbed.node import Node
from tests.testbed.pods import ContainerSpec, PodSpec, container_config, sandbox_config

METHODS = ("Version", "ListContainers", "Status")
PACED_GAP_S = 0.02
PACED_SHARE = 10
"""One in so many rounds is made again with a pause before each call, as kubelet's calls come: then
every thread on the way has to be woken from an idle processor, which on a virtual machine costs
more than the work. Told beside the figures of the calls made back to back."""


@contextlib.contextmanager
def many_pods(node: Node, count: int) -> Iterator[None]:
    """So many pods on a node, each with one container; on the host's network, which is cheaper."""
    specs = [
        PodSpec(f"crowd-{i}", (ContainerSpec("c", command=("sleep", "3600")),), host_network=True)
        for i in range(count)
    ]
    with Kubelet(node) as kubelet:
        made: list[str] = []

        def make(spec: PodSpec) -> None:
            config = sandbox_config(spec)
            sandbox = kubelet.cri.run_pod_sandbox(config)
            made.append(sandbox)
            kubelet.cri.create_container(sandbox, _bare(spec), config)

        try:
            with ThreadPoolExecutor(4) as pool:
                list(pool.map(make, specs))
            yield
        finally:
            with ThreadPoolExecutor(4) as pool:
                list(pool.map(kubelet.cri.stop_pod_sandbox, made))
                list(pool.map(kubelet.cri.remove_pod_sandbox, made))


def _bare(spec: PodSpec) -> cri.ContainerConfig:
    config = container_config(spec, spec.containers[0])
    del config.mounts[:]  # kubelet's per-pod files, which nobody reads here
    return config


def added_latency(direct: Path, shim: Path, rounds: int) -> dict[str, dict[str, Any]]:
    """Microseconds that the shim adds, per method: at the median and at the 99th percentile.

    Args:
        direct: the runtime's socket.
        shim: ours.
        rounds: calls per method and path; the two paths take turns.
    """
    figures: dict[str, dict[str, Any]] = {}
    with _raw(direct) as to_direct, _raw(shim) as to_shim:
        for method in METHODS:
            name = f"/runtime.v1.RuntimeService/{method}"
            calls = (to_direct.unary_unary(name), to_shim.unary_unary(name))
            _alternate(calls, 50, 0.0)  # warm: connections, caches
            samples = _alternate(calls, rounds, 0.0)
            paced = _alternate(calls, rounds // PACED_SHARE, PACED_GAP_S)
            figures[method] = {
                "paced_added_p50_us": _round(percentile(paced[1], 0.5) - percentile(paced[0], 0.5)),
                "paced_direct_p50_us": _round(percentile(paced[0], 0.5)),
                "added_p50_us": _round(percentile(samples[1], 0.5) - percentile(samples[0], 0.5)),
                "added_p99_us": _round(percentile(samples[1], 0.99) - percentile(samples[0], 0.99)),
                "direct_p50_us": _round(percentile(samples[0], 0.5)),
                "direct_p99_us": _round(percentile(samples[0], 0.99)),
                "shim_p50_us": _round(percentile(samples[1], 0.5)),
                "shim_p99_us": _round(percentile(samples[1], 0.99)),
                "raw_us": {"direct": _rounded(samples[0]), "shim": _rounded(samples[1])},
            }
    return figures


def _alternate(
    calls: tuple[Any, Any], rounds: int, gap_s: float
) -> tuple[list[float], list[float]]:
    """Microseconds of each call; the first of a round is by turns one path and the other."""
    samples: tuple[list[float], list[float]] = ([], [])
    for turn in range(rounds):
        for which in (0, 1) if turn % 2 else (1, 0):
            time.sleep(gap_s)
            begun = time.perf_counter()
            calls[which](b"")
            samples[which].append((time.perf_counter() - begun) * 1e6)
    return samples


@contextlib.contextmanager
def _raw(socket: Path) -> Iterator[Any]:
    options = [
        ("grpc.max_receive_message_length", 16 << 20),
        ("grpc.default_authority", "localhost"),
    ]
    with grpc.insecure_channel(f"unix:{socket}", options=options) as channel:
        yield channel


def pod_start(node: Node, shim: str, rounds: int) -> dict[str, Any]:
    """RunPodSandbox + CreateContainer + StartContainer, in ms, both paths by turns.

    Args:
        node: where.
        shim: path of our socket inside the node.
        rounds: pods per path.
    """
    samples: tuple[list[float], list[float]] = ([], [])
    with Kubelet(node) as direct, Kubelet(node, shim) as through:
        for turn in range(rounds + 1):
            for which in (0, 1) if turn % 2 else (1, 0):
                took_ms = _start_one((direct, through)[which], f"start-{turn}-{which}")
                if turn:  # the first round warms page cache and CNI
                    samples[which].append(took_ms)
    medians = [statistics.median(s) for s in samples]
    return {
        "pod_start_ratio": round(medians[1] / medians[0], 3),
        "direct_ms": spread(samples[0]),
        "shim_ms": spread(samples[1]),
        "raw_ms": {"direct": _rounded(samples[0]), "shim": _rounded(samples[1])},
    }


def _start_one(kubelet: Kubelet, name: str) -> float:
    spec = PodSpec(name, (ContainerSpec("c", command=("sleep", "3600")),))
    config = sandbox_config(spec)
    begun = time.perf_counter()
    sandbox = kubelet.cri.run_pod_sandbox(config)
    try:
        container = kubelet.cri.create_container(sandbox, _bare(spec), config)
        kubelet.cri.start_container(container)
        took_ms = (time.perf_counter() - begun) * 1e3
    finally:
        kubelet.cri.stop_pod_sandbox(sandbox)
        kubelet.cri.remove_pod_sandbox(sandbox)
    return took_ms


def _round(value: float) -> float:
    return round(value, 1)


def _rounded(values: list[float]) -> list[float]:
    return [_round(v) for v in values]
