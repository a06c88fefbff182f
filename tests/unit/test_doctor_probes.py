# SPDX-License-Identifier: Apache-2.0
"""The readers inside probes: configurations, command lines, mounts; and each probe, run once."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import msgspec
import pytest

from shim.doctor.checks import CHECKS
from shim.doctor.model import Check
from shim.doctor.probes import runtime
from shim.doctor.probes.kubelet import flag_value
from shim.doctor.probes.system import mounts
from shim.settings import Cri, Settings

STATUS = {
    "containerd": {
        "defaultRuntimeName": "runc",
        "runtimes": {
            "runc": {"options": {"BinaryName": "/usr/bin/podferry-runtime"}},
            "gpu": {"options": None},
        },
    },
    "restrictOOMScoreAdj": True,
}
VERSION_3 = """
version = 3
[plugins.'io.containerd.cri.v1.runtime']
restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.containerd]
default_runtime_name = 'runc'
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
BinaryName = '/usr/bin/podferry-runtime'
"""
VERSION_2 = VERSION_3.replace("io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri")


def test_the_status_of_containerd() -> None:
    config = runtime.from_status(json.dumps(STATUS), sys_resource=False)
    assert config.binary_names == {"runc": "/usr/bin/podferry-runtime", "gpu": ""}
    assert config.default_handler == "runc"
    assert config.restrict_oom_score_adj is True
    assert config.sys_resource is False


@pytest.mark.parametrize("text", ["{}", "[]", "7", '{"containerd": 3}', '{"containerd": null}'])
def test_a_strange_status_is_no_crash(text: str) -> None:
    config = runtime.from_status(text, sys_resource=True)
    assert config.binary_names == {}
    assert config.restrict_oom_score_adj is None


def test_a_status_that_is_no_json_is_told() -> None:
    assert "no JSON" in runtime.from_status("{", sys_resource=True).problem


@pytest.mark.parametrize("text", [VERSION_2, VERSION_3], ids=["version 2", "version 3"])
def test_the_file_of_containerd(text: str) -> None:
    config = runtime.from_file(text, "/etc/x", sys_resource=True)
    assert config.binary_names == {"runc": "/usr/bin/podferry-runtime"}
    assert config.restrict_oom_score_adj is True
    assert config.source == "/etc/x"


def test_a_file_without_a_word_has_the_defaults() -> None:
    assert runtime.from_file("version = 3", "", sys_resource=True).restrict_oom_score_adj is False


def test_a_file_that_is_no_toml_is_told() -> None:
    assert "no TOML" in runtime.from_file("version = ", "", sys_resource=True).problem


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        (["kubelet", "--container-runtime-endpoint=unix:///a"], "unix:///a"),
        (["kubelet", "--container-runtime-endpoint", "unix:///a"], "unix:///a"),
        (["kubelet", "-container-runtime-endpoint=unix:///a"], "unix:///a"),
        (
            ["--container-runtime-endpoint=a", "-v=2", "--container-runtime-endpoint=b"],
            "b",
        ),
        (["kubelet", "--container-runtime-endpoint"], ""),
        (["kubelet", "--config=/var/lib/kubelet/config.yaml"], ""),
    ],
)
def test_the_flag_of_a_running_kubelet(arguments: list[str], value: str) -> None:
    assert flag_value(arguments) == value


def test_the_socket_files(tmp_path: Path) -> None:
    path = tmp_path / "runtime.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        path.chmod(0o640)
        settings = Settings(cri=Cri(listen=str(tmp_path / "none"), runtime=str(path)))
        seen = runtime.sockets(settings)
    assert (seen.runtime.is_socket, seen.runtime.mode) == (True, 0o640)
    assert not seen.ours.exists


def test_a_runtime_that_is_not_there_is_a_fact_and_no_error(tmp_path: Path) -> None:
    settings = Settings(cri=Cri(runtime=str(tmp_path / "none.sock")))
    assert runtime.runtime(settings).problem == "there is no such socket"


def test_the_root_is_mounted() -> None:
    assert "/" in {mount.path for mount in mounts()}


# Those that need no root, no runtime and no native library: the rest is tried by tests/native and
# by `podferry doctor` on a node.
PLAIN = ("system.", "service.", "kubelet.", "network.nat", "memory.pipe_size")


@pytest.mark.parametrize(
    "check", [one for one in CHECKS if one.id.startswith(PLAIN)], ids=lambda one: one.id
)
def test_a_plain_probe_has_facts_that_its_judge_takes(check: Check) -> None:
    facts = check.probe(Settings())
    assert isinstance(facts, check.facts)
    travelled = msgspec.json.decode(msgspec.json.encode(facts), type=check.facts)
    assert travelled == facts
    assert check.judge(travelled).found
