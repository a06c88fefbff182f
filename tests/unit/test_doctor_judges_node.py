# SPDX-License-Identifier: Apache-2.0
"""The judges of criu, runc, cgroups, the runtime, sockets and kubelet."""

from __future__ import annotations

import pytest

from shim.doctor import facts as f
from shim.doctor.judges import checkpoint, runtime
from shim.doctor.model import State
from tests.unit.doctor_case import Case

OK, WARNING, MISSING, UNKNOWN, SKIPPED = State


def said(output: str, status: int = 0) -> f.Command:
    return f.Command("/usr/sbin/x", status, output)


def features(**failing: str) -> f.CriuFeatures:
    by_name = {name: said("is supported") for name in checkpoint.ALL_FEATURES}
    by_name |= {name.replace("_0", "-"): said(text, 1) for name, text in failing.items()}
    return f.CriuFeatures("/usr/sbin/criu", by_name)


NO_COMMAND = f.Command("")
V2 = f.Mount("cgroup2", "/sys/fs/cgroup", ())
V1 = f.Mount("cgroup", "/sys/fs/cgroup/memory", ())

CHECKPOINT_CASES = [
    Case("criu 4.2", checkpoint.criu_version, said("Version: 4.2.1"), OK, "4.2.1"),
    Case("criu 3.19", checkpoint.criu_version, said("Version: 3.19"), WARNING, "4.2"),
    Case("criu 3.10", checkpoint.criu_version, said("Version: 3.10"), MISSING, "4.2"),
    Case("no criu", checkpoint.criu_version, NO_COMMAND, MISSING, "install"),
    Case("criu says nothing", checkpoint.criu_version, said(""), UNKNOWN),
    Case("criu check is content", checkpoint.criu_check, said("Looks good."), OK, "Looks good"),
    Case("criu check is not", checkpoint.criu_check, said("a\nno kcmp\n", 1), MISSING, "no kcmp"),
    Case("criu check dies", checkpoint.criu_check, said("", -11), MISSING, "signal 11"),
    Case("no criu to check", checkpoint.criu_check, NO_COMMAND, MISSING),
    Case("all features", checkpoint.criu_features, features(), OK, "all 19"),
    Case("no uffd", checkpoint.criu_features, features(uffd="is off"), MISSING, "uffd"),
    Case("no timens", checkpoint.criu_features, features(timens="is off"), WARNING, "timens"),
    Case(
        "no soft-dirty",
        checkpoint.criu_features,
        features(mem_dirty_track="OFF"),
        OK,
        "mem_dirty_track absent",
    ),
    Case(
        "an older criu's ignorance",
        checkpoint.criu_features,
        features(uffd="Unknown feature uffd"),
        OK,
    ),
    Case("no criu for features", checkpoint.criu_features, f.CriuFeatures("", {}), MISSING),
    Case("runc", checkpoint.runc_version, said("runc version 1.3.6+ds1\nspec: 1"), OK, "1.3.6+ds1"),
    Case("an old runc", checkpoint.runc_version, said("runc version 1.0.3"), MISSING, "1.1"),
    Case("no runc", checkpoint.runc_version, NO_COMMAND, MISSING, "install runc"),
    Case("runc says nothing", checkpoint.runc_version, said("?"), UNKNOWN),
    Case("cgroup v2", checkpoint.cgroup_layout, f.Cgroups((V2,)), OK),
    Case("hybrid", checkpoint.cgroup_layout, f.Cgroups((V1, V2)), WARNING, "hybrid"),
    Case("cgroup v1", checkpoint.cgroup_layout, f.Cgroups((V1,)), WARNING, "unified"),
    Case("no cgroups", checkpoint.cgroup_layout, f.Cgroups(()), MISSING),
    Case("frozen and thawed", checkpoint.freezer, f.Freezer(True, True, True), OK),
    Case("not frozen", checkpoint.freezer, f.Freezer(True), MISSING, "did not freeze"),
    Case("not thawed", checkpoint.freezer, f.Freezer(True, True), MISSING, "did not thaw"),
    Case(
        "no v2", checkpoint.freezer, f.Freezer(False, problem="no cgroup2"), MISSING, "no cgroup2"
    ),
    Case(
        "no right to freeze",
        checkpoint.freezer,
        f.Freezer(False, problem="Permission denied: /sys/fs/cgroup/x"),
        UNKNOWN,
        "root",
    ),
]

SOCKET = "/run/containerd/containerd.sock"
OURS = "unix:///run/podferry/podferry.sock"
DEAF = f.Runtime(SOCKET, "UNAVAILABLE: connection refused")


def containerd(number: str, name: str = "containerd") -> f.Runtime:
    return f.Runtime(SOCKET, "", name, number)


def conditions(runtime_ready: bool, network_ready: bool) -> f.Runtime:
    return f.Runtime(
        SOCKET,
        conditions=(
            f.Condition("RuntimeReady", runtime_ready, "Why", ""),
            f.Condition("NetworkReady", network_ready, "", "cni plugin not initialized"),
        ),
    )


def sockets(ours_mode: int | None, runtime_mode: int | None = 0o660) -> f.Sockets:
    def file(path: str, mode: int | None) -> f.SocketFile:
        return f.SocketFile(path, mode is not None, mode is not None, mode or 0)

    return f.Sockets(file(SOCKET, runtime_mode), file("/run/podferry/podferry.sock", ours_mode))


NO_SOCKET = f.Sockets(f.SocketFile("/r", True), f.SocketFile("/o", True))

RUNTIME_CASES = [
    Case("an answer", runtime.answers, containerd("2.1.9"), OK),
    Case("no answer", runtime.answers, DEAF, MISSING, "connection refused"),
    Case("containerd 2.1", runtime.version, containerd("2.1.9+unknown"), OK, "2.1.9"),
    Case("containerd 1.7", runtime.version, containerd("v1.7.27"), WARNING, "2.0"),
    Case("containerd 1.5", runtime.version, containerd("1.5.0"), MISSING, "1.6"),
    Case("cri-o", runtime.version, containerd("1.33.0", "cri-o"), WARNING, "cri-o"),
    Case("no version", runtime.version, containerd("unknown"), UNKNOWN),
    Case("nobody's version", runtime.version, DEAF, UNKNOWN),
    Case("ready", runtime.ready, conditions(True, True), OK),
    Case("runtime not ready", runtime.ready, conditions(False, True), MISSING, "Why"),
    Case("network not ready", runtime.ready, conditions(True, False), WARNING, "cni plugin"),
    Case("no conditions", runtime.ready, containerd("2.1.9"), UNKNOWN),
    Case("readiness of nobody", runtime.ready, DEAF, UNKNOWN),
    Case(
        "plain runc",
        runtime.config,
        f.RuntimeConfig("Status", binary_names={"runc": ""}, restrict_oom_score_adj=False),
        OK,
        "runs runc",
    ),
    Case(
        "our runtime",
        runtime.config,
        f.RuntimeConfig("Status", binary_names={"runc": "/usr/bin/podferry-runtime"}),
        OK,
        "podferry-runtime",
    ),
    Case(
        "another runtime",
        runtime.config,
        f.RuntimeConfig("Status", binary_names={"runc": "", "gpu": "/usr/bin/nvidia-runtime"}),
        WARNING,
        "gpu = /usr/bin/nvidia-runtime",
    ),
    Case(
        "pods cannot start",
        runtime.config,
        f.RuntimeConfig("Status", restrict_oom_score_adj=False, sys_resource=False),
        MISSING,
        "restrict_oom_score_adj = true",
    ),
    Case(
        "pods can start all the same",
        runtime.config,
        f.RuntimeConfig("Status", restrict_oom_score_adj=True, sys_resource=False),
        OK,
    ),
    Case("no configuration", runtime.config, f.RuntimeConfig("", "not told"), WARNING, "not told"),
    Case("a runtime's socket", runtime.runtime_socket, sockets(None), OK, "0660"),
    Case("an open one", runtime.runtime_socket, sockets(None, 0o666), WARNING, "chmod"),
    Case("none", runtime.runtime_socket, sockets(None, None), MISSING, "does not exist"),
    Case("no socket but a file", runtime.runtime_socket, NO_SOCKET, MISSING, "is no socket"),
    Case("our socket", runtime.our_socket, sockets(0o660), OK),
    Case("our socket is easier to open", runtime.our_socket, sockets(0o666), WARNING, "0666"),
    Case("not serving", runtime.our_socket, sockets(None), SKIPPED, "does not run"),
    Case("a file in our place", runtime.our_socket, NO_SOCKET, MISSING, "remove it"),
    Case("no kubelet", runtime.kubelet, f.Kubelet(False, OURS), SKIPPED),
    Case(
        "kubelet is ours",
        runtime.kubelet,
        f.Kubelet(True, OURS, 7, OURS, OURS, "/k.yaml"),
        OK,
        "pid 7",
    ),
    Case(
        "a bare path is the same endpoint",
        runtime.kubelet,
        f.Kubelet(True, OURS, configured="/run/podferry/podferry.sock", place="/k.yaml"),
        OK,
        "not running",
    ),
    Case(
        "kubelet is containerd's",
        runtime.kubelet,
        f.Kubelet(True, OURS, configured=f"unix://{SOCKET}", place="default"),
        WARNING,
        "podferry install",
    ),
    Case(
        "kubelet was not restarted",
        runtime.kubelet,
        f.Kubelet(True, OURS, 7, f"unix://{SOCKET}", OURS, "/k.env"),
        WARNING,
        "restart kubelet",
    ),
    Case(
        "kubelet's files cannot be read",
        runtime.kubelet,
        f.Kubelet(True, OURS, 7, problem="/k.yaml: is not YAML"),
        UNKNOWN,
        "not YAML",
    ),
    Case(
        "only the command line is known",
        runtime.kubelet,
        f.Kubelet(True, OURS, 7, OURS, problem="no unit"),
        OK,
        "its command line",
    ),
]

CASES = CHECKPOINT_CASES + RUNTIME_CASES


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
def test_verdict(case: Case) -> None:
    case.check()
