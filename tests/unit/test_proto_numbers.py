# SPDX-License-Identifier: Apache-2.0
"""Field numbers of CRI as facts of the wire, apart from the .proto they are compared with.

Source: kubernetes/cri-api pkg/apis/runtime/v1/api.proto, v0.36. A wrong number in our .proto would
not fail anywhere else: protobuf would read another field, or none.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf import descriptor as proto

from cri_proto import control_pb2
from cri_proto import runtime_v1_pb2 as cri
from tests.unit import wire_bytes as wire

PROTOS = Path(cri.__file__).parent / "protos"

# message, then "field number kind" for each; kinds: s text, y bytes, i number, b yes or no,
# m message, e enum; + repeated, > map
FACTS = """
VersionResponse            version 1 s, runtime_name 2 s, runtime_version 3 s
VersionResponse            runtime_api_version 4 s
StatusResponse             status 1 m, info 2 >
RuntimeCondition           type 1 s, status 2 b, reason 3 s, message 4 s
PodSandboxMetadata         name 1 s, uid 2 s, namespace 3 s, attempt 4 i
PodSandboxConfig           metadata 1 m, hostname 2 s, log_directory 3 s, dns_config 4 m
PodSandboxConfig           port_mappings 5 +, labels 6 >, annotations 7 >, linux 8 m
PortMapping                protocol 1 e, container_port 2 i, host_port 3 i, host_ip 4 s
LinuxPodSandboxConfig      cgroup_parent 1 s, security_context 2 m, sysctls 3 >
LinuxSandboxSecurityContext  namespace_options 1 m, privileged 6 b
NamespaceOption            network 1 e, pid 2 e, ipc 3 e, target_id 4 s
RunPodSandboxRequest       config 1 m, runtime_handler 2 s
RunPodSandboxResponse      pod_sandbox_id 1 s
StopPodSandboxRequest      pod_sandbox_id 1 s
RemovePodSandboxRequest    pod_sandbox_id 1 s
PodSandboxStatus           id 1 s, metadata 2 m, state 3 e, created_at 4 i, network 5 m
PodSandboxStatus           labels 7 >, annotations 8 >, runtime_handler 9 s
PodSandboxNetworkStatus    ip 1 s, additional_ips 2 +
PodSandboxFilter           id 1 s, state 2 m, label_selector 3 >
ListPodSandboxResponse     items 1 +
PodSandbox                 id 1 s, metadata 2 m, state 3 e, created_at 4 i, labels 5 >
PodSandbox                 annotations 6 >, runtime_handler 7 s
ContainerMetadata          name 1 s, attempt 2 i
ImageSpec                  image 1 s, annotations 2 >, user_specified_image 18 s
ImageSpec                  runtime_handler 19 s
KeyValue                   key 1 s, value 2 y
Mount                      container_path 1 s, host_path 2 s, readonly 3 b
LinuxContainerResources    cpu_period 1 i, cpu_quota 2 i, cpu_shares 3 i, memory_limit_in_bytes 4 i
LinuxContainerResources    oom_score_adj 5 i
LinuxContainerSecurityContext  capabilities 1 m, privileged 2 b, namespace_options 3 m
LinuxContainerSecurityContext  run_as_user 5 m, readonly_rootfs 7 b
ContainerConfig            metadata 1 m, image 2 m, command 3 +, args 4 +, working_dir 5 s, envs 6 +
ContainerConfig            mounts 7 +, labels 9 >, annotations 10 >, log_path 11 s, stdin 12 b
ContainerConfig            stdin_once 13 b, tty 14 b, linux 15 m
CreateContainerRequest     pod_sandbox_id 1 s, config 2 m, sandbox_config 3 m
CreateContainerResponse    container_id 1 s
StartContainerRequest      container_id 1 s
StopContainerRequest       container_id 1 s, timeout 2 i
RemoveContainerRequest     container_id 1 s
ListContainersResponse     containers 1 +
ContainerFilter            id 1 s, state 2 m, pod_sandbox_id 3 s, label_selector 4 >
Container                  id 1 s, pod_sandbox_id 2 s, metadata 3 m, image 4 m, image_ref 5 s
Container                  state 6 e, created_at 7 i, labels 8 >, annotations 9 >
ContainerStatus            id 1 s, metadata 2 m, state 3 e, created_at 4 i, started_at 5 i
ContainerStatus            finished_at 6 i, exit_code 7 i, image 8 m, image_ref 9 s, reason 10 s
ContainerStatus            message 11 s, labels 12 >, annotations 13 >, log_path 15 s
CheckpointContainerRequest container_id 1 s, location 2 s, timeout 3 i
ExecSyncRequest            container_id 1 s, cmd 2 +, timeout 3 i
ExecSyncResponse           stdout 1 y, stderr 2 y, exit_code 3 i
ExecRequest                container_id 1 s, cmd 2 +, tty 3 b, stdin 4 b, stdout 5 b, stderr 6 b
AttachRequest              container_id 1 s, stdin 2 b, tty 3 b, stdout 4 b, stderr 5 b
PortForwardRequest         pod_sandbox_id 1 s, port 2 +
ContainerStats             attributes 1 m, cpu 2 m, memory 3 m
CpuUsage                   timestamp 1 i, usage_core_nano_seconds 2 m, usage_nano_cores 3 m
MemoryUsage                timestamp 1 i, working_set_bytes 2 m, usage_bytes 4 m, rss_bytes 5 m
ContainerEventResponse     container_id 1 s, container_event_type 2 e, created_at 3 i
ContainerEventResponse     pod_sandbox_status 4 m
Image                      id 1 s, repo_tags 2 +, repo_digests 3 +, size 4 i
AuthConfig                 username 1 s, password 2 s, auth 3 s, server_address 4 s
PullImageRequest           image 1 m, auth 2 m, sandbox_config 3 m
PullImageResponse          image_ref 1 s
FilesystemUsage            timestamp 1 i, fs_id 2 m, used_bytes 3 m
FilesystemIdentifier       mountpoint 1 s
"""

ENUMS = {
    "Protocol": ["TCP", "UDP", "SCTP"],
    "NamespaceMode": ["POD", "CONTAINER", "NODE", "TARGET"],
    "PodSandboxState": ["SANDBOX_READY", "SANDBOX_NOTREADY"],
    "ContainerState": [
        "CONTAINER_CREATED", "CONTAINER_RUNNING", "CONTAINER_EXITED", "CONTAINER_UNKNOWN",
    ],
    "CgroupDriver": ["SYSTEMD", "CGROUPFS"],
    "ContainerEventType": [
        "CONTAINER_CREATED_EVENT", "CONTAINER_STARTED_EVENT", "CONTAINER_STOPPED_EVENT",
        "CONTAINER_DELETED_EVENT",
    ],
}  # fmt: skip

_KINDS = {
    proto.FieldDescriptor.TYPE_STRING: "s",
    proto.FieldDescriptor.TYPE_BYTES: "y",
    proto.FieldDescriptor.TYPE_BOOL: "b",
    proto.FieldDescriptor.TYPE_MESSAGE: "m",
    proto.FieldDescriptor.TYPE_ENUM: "e",
}


def facts() -> dict[str, dict[str, tuple[int, str]]]:
    """The table: (number, kind) by field by message."""
    table: dict[str, dict[str, tuple[int, str]]] = {}
    for line in FACTS.strip().splitlines():
        message, _, rest = line.partition(" ")
        for entry in rest.split(","):
            name, number, kind = entry.split()
            table.setdefault(message, {})[name] = (int(number), kind)
    return table


def kind_of(field: proto.FieldDescriptor) -> str:
    """A field's kind as the table writes it."""
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return ">"
    return "+" if field.is_repeated else _KINDS.get(field.type, "i")


@pytest.mark.parametrize("message", sorted(facts()))
def test_fields_have_the_numbers_of_the_wire(message: str) -> None:
    fields = cri.DESCRIPTOR.message_types_by_name[message].fields
    assert {f.name: (f.number, kind_of(f)) for f in fields} == facts()[message]


@pytest.mark.parametrize("enum", sorted(ENUMS))
def test_enums_count_from_zero_in_the_order_of_the_wire(enum: str) -> None:
    values = cri.DESCRIPTOR.enum_types_by_name[enum].values
    assert [(v.number, v.name) for v in values] == list(enumerate(ENUMS[enum]))


def test_the_package_is_the_one_in_method_names() -> None:
    assert cri.DESCRIPTOR.package == "runtime.v1"


def test_numbers_are_signed_as_the_wire_has_them() -> None:
    """-998 is what kubelet sends for each sandbox; zigzag or unsigned would read another number."""
    encoded = wire.varint(5 << 3) + wire.varint(-998 & (1 << 64) - 1)
    assert cri.LinuxContainerResources.FromString(encoded).oom_score_adj == -998
    assert cri.LinuxContainerResources(oom_score_adj=-998).SerializeToString() == encoded


def test_a_call_of_kubelet_by_hand() -> None:
    """A CreateContainerRequest from its bytes, each number from the table of the wire."""
    data = wire.field(1, "5aadbeef") + wire.field(
        2,
        wire.field(1, wire.field(1, "app") + wire.field(2, 3))
        + wire.field(2, wire.field(1, "nginx:1"))
        + wire.field(6, wire.field(1, "A") + wire.field(2, b"\xff"))
        + wire.field(10, wire.field(1, "k") + wire.field(2, "v"))
        + wire.field(15, wire.field(1, wire.field(4, 1 << 40))),
    )
    request = cri.CreateContainerRequest.FromString(data)
    assert request.pod_sandbox_id == "5aadbeef"
    assert (request.config.metadata.name, request.config.metadata.attempt) == ("app", 3)
    assert request.config.image.image == "nginx:1"
    assert (request.config.envs[0].key, request.config.envs[0].value) == ("A", b"\xff")
    assert dict(request.config.annotations) == {"k": "v"}
    assert request.config.linux.resources.memory_limit_in_bytes == 1 << 40


def test_credentials_are_not_shown_where_messages_are_printed() -> None:
    shown = {f.name for f in cri.AuthConfig.DESCRIPTOR.fields if not f.GetOptions().debug_redact}
    assert shown == {"username", "server_address"}


@pytest.mark.parametrize("module", [cri, control_pb2])
def test_our_protos_are_proto3_and_share_no_number(module: object) -> None:
    descriptor = module.DESCRIPTOR  # type: ignore[attr-defined]
    for message in descriptor.message_types_by_name.values():
        numbers = [field.number for field in message.fields]
        assert len(set(numbers)) == len(numbers)
    (source,) = (p for p in PROTOS.glob("*.proto") if p.name == descriptor.name)
    assert 'syntax = "proto3";' in source.read_text("utf-8")
