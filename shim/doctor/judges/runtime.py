# SPDX-License-Identifier: Apache-2.0
"""What the runtime's answers and configuration, the sockets and kubelet's endpoint mean."""

from __future__ import annotations

import re

from shim.doctor.facts import Kubelet, Runtime, RuntimeConfig, SocketFile, Sockets
from shim.doctor.model import Verdict, missing, ok, skipped, unknown, warning

OLDEST_CONTAINERD, WANTED_CONTAINERD = (1, 6), (2, 0)
OURS = "podferry-runtime"
OOM_REMEDY = (
    "set restrict_oom_score_adj = true in containerd's "
    "plugins.'io.containerd.cri.v1.runtime' (version 2 files: 'io.containerd.grpc.v1.cri')"
)


def answers(facts: Runtime) -> Verdict:
    """Passthrough is to this socket."""
    if facts.problem:
        return missing(
            f"{facts.socket}: {facts.problem}",
            "start containerd, or set cri.runtime to the socket of the runtime",
        )
    return ok(f"{facts.name} answers at {facts.socket}")


def version(facts: Runtime) -> Verdict:
    """Any CRI v1 runtime is passed through; the rest is tested with containerd."""
    if facts.problem:
        return unknown("the runtime does not answer")
    found = f"{facts.name} {facts.version}"
    if facts.name != "containerd":
        return warning(f"{found}: passthrough only; the rest needs containerd", "use containerd")
    match = re.match(r"v?(\d+)\.(\d+)", facts.version)
    if match is None:
        return unknown(f"{found}: no release number")
    number = (int(match.group(1)), int(match.group(2)))
    if number < OLDEST_CONTAINERD:
        return missing(found, "install containerd 2.0 or newer; CRI v1 needs at least 1.6")
    if number < WANTED_CONTAINERD:
        return warning(f"{found}; podferry is tested with 2.1", "install containerd 2.0 or newer")
    return ok(found)


def ready(facts: Runtime) -> Verdict:
    """The runtime's own word on itself and on the pod network."""
    if facts.problem:
        return unknown("the runtime does not answer")
    states = {one.type: one for one in facts.conditions}
    runtime, network = states.get("RuntimeReady"), states.get("NetworkReady")
    if runtime is None or network is None:
        return unknown("its Status has no RuntimeReady or no NetworkReady")
    if not runtime.status:
        return missing(f"RuntimeReady is false: {runtime.message or runtime.reason}", "see its log")
    if not network.status:
        return warning(
            f"NetworkReady is false: {network.message or network.reason}",
            "install a CNI plugin and its configuration in /etc/cni/net.d",
        )
    return ok("RuntimeReady and NetworkReady")


def config(facts: RuntimeConfig) -> Verdict:
    """Who runs the containers, and whether they can start where a capability is missing."""
    if facts.problem:
        return warning(f"not known: {facts.source or 'no configuration'}: {facts.problem}")
    if not facts.sys_resource and facts.restrict_oom_score_adj is False:
        return missing(
            "restrict_oom_score_adj is false and CAP_SYS_RESOURCE is missing: no pod can start",
            OOM_REMEDY,
        )
    handler = facts.default_handler or "runc"
    binary = facts.binary_names.get(handler, "")
    strangers = sorted(
        name
        for name, value in facts.binary_names.items()
        if value and value.rpartition("/")[2] not in (OURS, "runc")
    )
    if strangers:
        listed = ", ".join(f"{name} = {facts.binary_names[name]}" for name in strangers)
        return warning(
            f"BinaryName of {listed}: pods of these handlers are passed through only",
            "use runc for pods that podferry shall move",
        )
    return ok(f"handler {handler} runs {binary or 'runc'}, by {facts.source}")


def _described(file: SocketFile) -> str:
    return f"{file.path} has mode {file.mode:04o}, owner {file.uid}:{file.gid}"


def runtime_socket(facts: Sockets) -> Verdict:
    """Whoever may write to it is root on this node."""
    file = facts.runtime
    if not file.exists:
        return missing(f"{file.path} does not exist", "start the runtime, or set cri.runtime")
    if not file.is_socket:
        return missing(f"{file.path} is no socket", "set cri.runtime to the runtime's socket")
    if file.mode & 0o007:
        return warning(f"{_described(file)}: open to everybody", f"chmod 0660 {file.path}")
    return ok(_described(file))


def our_socket(facts: Sockets) -> Verdict:
    """Ours must not be easier to open than the runtime's."""
    file, runtime = facts.ours, facts.runtime
    if not file.exists:
        return skipped(f"{file.path} does not exist: the service does not run")
    if not file.is_socket:
        return missing(f"{file.path} is no socket", "remove it and start podferry")
    ours, theirs = (file.mode, file.uid, file.gid), (runtime.mode, runtime.uid, runtime.gid)
    if runtime.exists and ours != theirs:
        return warning(
            f"{_described(file)}; the runtime's {_described(runtime)}",
            "restart podferry, which takes the runtime's mode and owner",
        )
    return ok(_described(file))


def _same(left: str, right: str) -> bool:
    # kubelet takes a bare path for unix://; unix:/path is a third spelling of the same.
    def path(endpoint: str) -> str:
        rest = endpoint.removeprefix("unix:")
        return "/" + rest.lstrip("/")

    return path(left) == path(right)


def kubelet(facts: Kubelet) -> Verdict:
    """Whether this node's kubelet speaks to us."""
    if not facts.present:
        return skipped("no kubelet runs or is configured here")
    if facts.problem and not facts.running:
        return unknown(facts.problem)
    configured = facts.configured or facts.running
    place = facts.place or "its command line"
    if not _same(configured, facts.ours):
        return warning(
            f"kubelet takes {configured} ({place}): podferry is not in between",
            "run `podferry install` (first with --dry-run)",
        )
    if facts.running and not _same(facts.running, facts.ours):
        return warning(
            f"configured for {configured}, but pid {facts.pid} was started with {facts.running}",
            "restart kubelet",
        )
    return ok(f"{configured} by {place}" + (f", pid {facts.pid}" if facts.pid else ", not running"))
