# SPDX-License-Identifier: Apache-2.0
"""Asks the runtime over CRI, and reads its configuration and the modes of the sockets."""

from __future__ import annotations

import stat
import tomllib
from pathlib import Path
from typing import Any

import msgspec

from shim.doctor.facts import Condition, Runtime, RuntimeConfig, SocketFile, Sockets
from shim.doctor.probes.system import capabilities, has_sys_resource
from shim.settings import Settings

CALL_TIMEOUT_S = 5.0
CONTAINERD_CONFIG = Path("/etc/containerd/config.toml")
# The CRI plugin's table by configuration version: 3 (containerd 2) and 2 (1.x).
CRI_TABLES = ("io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri")


def runtime(settings: Settings) -> Runtime:
    """Calls Version and a verbose Status."""
    # Here and not above: gRPC is loaded in the probe's process, which ends, and only there.
    import grpc

    from cri_proto import runtime_v1_pb2 as cri

    path = settings.cri.runtime
    if not Path(path).exists():
        return Runtime(path, problem="there is no such socket")
    try:
        with grpc.insecure_channel(f"unix://{path}") as channel:
            version: Any = _call(channel, "Version", cri.VersionRequest(), cri.VersionResponse)
            status: Any = _call(
                channel, "Status", cri.StatusRequest(verbose=True), cri.StatusResponse
            )
    except grpc.RpcError as error:
        code = getattr(error, "code", lambda: None)()
        return Runtime(path, problem=f"{getattr(code, 'name', '')}: {_details(error)}")
    conditions = tuple(
        Condition(one.type, one.status, one.reason, one.message) for one in status.status.conditions
    )
    name, number = version.runtime_name, version.runtime_version
    return Runtime(path, "", name, number, conditions, status.info.get("config", ""))


def _call(channel: Any, method: str, request: Any, answer: Any) -> Any:
    callable_ = channel.unary_unary(
        f"/runtime.v1.RuntimeService/{method}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=answer.FromString,
    )
    return callable_(request, timeout=CALL_TIMEOUT_S)


def _details(error: Any) -> str:
    details = getattr(error, "details", None)
    return str(details()) if callable(details) else str(error)


def runtime_config(settings: Settings) -> RuntimeConfig:
    """The runtime's own word on its configuration, or else what its file says."""
    answer = runtime(settings)
    sys_resource = has_sys_resource(capabilities(settings))
    if answer.config:
        return from_status(answer.config, sys_resource=sys_resource)
    if not CONTAINERD_CONFIG.is_file():
        problem = answer.problem or "the runtime does not tell it"
        return RuntimeConfig("", problem=problem, sys_resource=sys_resource)
    return from_file(
        CONTAINERD_CONFIG.read_text("utf-8", "replace"),
        str(CONTAINERD_CONFIG),
        sys_resource=sys_resource,
    )


def from_status(text: str, *, sys_resource: bool) -> RuntimeConfig:
    """Reads the ``config`` of a verbose Status: JSON with Go's names, drop-ins merged."""
    source = "the runtime's Status"
    try:
        config = msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        return RuntimeConfig(source, problem=f"no JSON: {error}", sys_resource=sys_resource)
    runtimes = _table(_table(config, "containerd"), "runtimes")
    adjusted = config.get("restrictOOMScoreAdj") if isinstance(config, dict) else None
    return RuntimeConfig(
        source,
        binary_names={name: _binary_name(_table(runtimes, name)) for name in runtimes},
        default_handler=str(_table(config, "containerd").get("defaultRuntimeName", "")),
        restrict_oom_score_adj=adjusted if isinstance(adjusted, bool) else None,
        sys_resource=sys_resource,
    )


def from_file(text: str, source: str, *, sys_resource: bool) -> RuntimeConfig:
    """Reads a config.toml of version 2 or 3; its imports are not followed."""
    try:
        plugins = _table(tomllib.loads(text), "plugins")
    except tomllib.TOMLDecodeError as error:
        return RuntimeConfig(source, problem=f"no TOML: {error}", sys_resource=sys_resource)
    table = next((_table(plugins, name) for name in CRI_TABLES if name in plugins), {})
    containerd = _table(table, "containerd")
    runtimes = _table(containerd, "runtimes")
    return RuntimeConfig(
        source,
        binary_names={name: _binary_name(_table(runtimes, name)) for name in runtimes},
        default_handler=str(containerd.get("default_runtime_name", "")),
        restrict_oom_score_adj=bool(table.get("restrict_oom_score_adj", False)),
        sys_resource=sys_resource,
    )


def _table(data: Any, key: str) -> dict[str, Any]:
    value = data.get(key) if isinstance(data, dict) else None
    return value if isinstance(value, dict) else {}


def _binary_name(handler: dict[str, Any]) -> str:
    return str(_table(handler, "options").get("BinaryName", ""))


def sockets(settings: Settings) -> Sockets:
    """The files of the runtime's socket and of ours."""
    return Sockets(_socket(settings.cri.runtime), _socket(settings.cri.listen))


def _socket(path: str) -> SocketFile:
    try:
        status = Path(path).stat()
    except FileNotFoundError:
        return SocketFile(path, False)
    mode = status.st_mode
    return SocketFile(
        path, True, stat.S_ISSOCK(mode), stat.S_IMODE(mode), status.st_uid, status.st_gid
    )
