# SPDX-License-Identifier: Apache-2.0
"""Describes pods, and turns a description into the CRI messages that kubelet would send for it."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field

from cri_proto import runtime_v1_pb2 as pb
from tests.testbed import images

CONTAINER = pb.NamespaceMode.CONTAINER
LOG_ROOT = "/var/log/pods"
PODS_ROOT = "/var/lib/kubelet/pods"
BEST_EFFORT_OOM_SCORE = 1000
BEST_EFFORT_CPU_SHARES = 2


@dataclass(frozen=True)
class ContainerSpec:
    """One container of a pod.

    Attributes:
        name: its name in the pod.
        image: a reference; see tests/testbed/images.py.
        command: replaces the image's entry point; () keeps the image's command.
        env: its variables.
        mounts: where each of the pod's emptyDir volumes is mounted, by the volume's name.
        privileged: as in Kubernetes.
        memory_limit_bytes: 0 is none.
        stdin: whether attach can write to it.
        tty: whether it has a terminal.
    """

    name: str
    image: str = images.BUSYBOX
    command: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    mounts: Mapping[str, str] = field(default_factory=dict)
    privileged: bool = False
    memory_limit_bytes: int = 0
    stdin: bool = False
    tty: bool = False


@dataclass(frozen=True)
class PodSpec:
    """A pod as its owner describes it.

    Attributes:
        name: its name.
        containers: its containers, in the order they are started.
        namespace: its namespace.
        uid: its UID; a fresh one unless given.
        labels: its labels.
        annotations: its annotations, the surface of podferry.
        host_ports: container port by host port, TCP.
        host_network: whether it uses the node's network.
    """

    name: str
    containers: tuple[ContainerSpec, ...]
    namespace: str = "default"
    uid: str = field(default_factory=lambda: str(uuid.uuid4()))
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    host_ports: Mapping[int, int] = field(default_factory=dict)
    host_network: bool = False

    @property
    def directory(self) -> str:
        """kubelet's directory of the pod on its node."""
        return f"{PODS_ROOT}/{self.uid}"

    @property
    def log_directory(self) -> str:
        """The directory of its containers' logs on its node."""
        return f"{LOG_ROOT}/{self.namespace}_{self.name}_{self.uid}"

    @property
    def cgroup(self) -> str:
        """The pod's cgroup on its node; all our pods are of the class BestEffort."""
        return f"/kubepods/besteffort/pod{self.uid}"

    def volume(self, name: str) -> str:
        """The directory of an emptyDir volume on its node."""
        return f"{self.directory}/volumes/kubernetes.io~empty-dir/{name}"


def sandbox_config(spec: PodSpec, attempt: int = 0) -> pb.PodSandboxConfig:
    """What kubelet sends with RunPodSandbox."""
    network = pb.NamespaceMode.NODE if spec.host_network else pb.NamespaceMode.POD
    options = pb.NamespaceOption(network=network, pid=CONTAINER)
    return pb.PodSandboxConfig(
        metadata=pb.PodSandboxMetadata(
            name=spec.name, uid=spec.uid, namespace=spec.namespace, attempt=attempt
        ),
        hostname="" if spec.host_network else spec.name,
        log_directory=spec.log_directory,
        dns_config=pb.DNSConfig(
            servers=["10.96.0.10"],
            searches=[f"{spec.namespace}.svc.cluster.local", "svc.cluster.local", "cluster.local"],
            options=["ndots:5"],
        ),
        port_mappings=[
            pb.PortMapping(container_port=inner, host_port=outer)
            for outer, inner in spec.host_ports.items()
        ],
        labels={**spec.labels, **_identity(spec)},
        annotations={
            **spec.annotations,
            "kubernetes.io/config.seen": "2026-01-01T00:00:00.000000000Z",
            "kubernetes.io/config.source": "api",
        },
        linux=pb.LinuxPodSandboxConfig(
            cgroup_parent=spec.cgroup,
            security_context=pb.LinuxSandboxSecurityContext(
                namespace_options=options,
                privileged=any(one.privileged for one in spec.containers),
            ),
        ),
    )


def container_config(spec: PodSpec, one: ContainerSpec, attempt: int = 0) -> pb.ContainerConfig:
    """What kubelet sends with CreateContainer."""
    mounts = [
        pb.Mount(container_path=path, host_path=spec.volume(volume))
        for volume, path in one.mounts.items()
    ]
    mounts += [
        pb.Mount(container_path="/etc/hosts", host_path=f"{spec.directory}/etc-hosts"),
        pb.Mount(
            container_path="/dev/termination-log",
            host_path=f"{spec.directory}/containers/{one.name}/{attempt}",
        ),
    ]
    options = pb.NamespaceOption(
        network=pb.NamespaceMode.NODE if spec.host_network else pb.NamespaceMode.POD, pid=CONTAINER
    )
    return pb.ContainerConfig(
        metadata=pb.ContainerMetadata(name=one.name, attempt=attempt),
        image=pb.ImageSpec(image=one.image, user_specified_image=one.image),
        command=one.command,
        envs=[pb.KeyValue(key=key, value=value.encode()) for key, value in one.env.items()],
        mounts=mounts,
        labels={**_identity(spec), "io.kubernetes.container.name": one.name},
        annotations={
            "io.kubernetes.container.hash": "0",
            "io.kubernetes.container.restartCount": str(attempt),
            "io.kubernetes.container.terminationMessagePath": "/dev/termination-log",
            "io.kubernetes.container.terminationMessagePolicy": "File",
            "io.kubernetes.pod.terminationGracePeriod": "30",
        },
        log_path=f"{one.name}/{attempt}.log",
        stdin=one.stdin,
        tty=one.tty,
        linux=pb.LinuxContainerConfig(
            resources=pb.LinuxContainerResources(
                cpu_shares=BEST_EFFORT_CPU_SHARES,
                memory_limit_in_bytes=one.memory_limit_bytes,
                oom_score_adj=BEST_EFFORT_OOM_SCORE,
            ),
            security_context=pb.LinuxContainerSecurityContext(
                namespace_options=options, privileged=one.privileged
            ),
        ),
    )


def _identity(spec: PodSpec) -> dict[str, str]:
    return {
        "io.kubernetes.pod.name": spec.name,
        "io.kubernetes.pod.namespace": spec.namespace,
        "io.kubernetes.pod.uid": spec.uid,
    }
