# SPDX-License-Identifier: Apache-2.0
"""MPTCP is switched off for new managed pods, and a failure to do so costs nobody his pod."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cri_proto import runtime_v1_pb2 as cri
from shim.checkpoint import pods
from shim.checkpoint.anatomy import Places
from shim.core.methods import RUNTIME
from shim.core.policy import MANAGED, Policy, read_annotations
from shim.core.registry import Sandbox, Subject
from shim.core.rules import PASS, Call
from shim.errors import NotFound, PodferryError
from shim.rules.plain_tcp import PlainTcp


def replied(rule: PlainTcp, namespace: str = "shop", managed: str = "") -> None:
    """Takes the reply of a RunPodSandbox through the rule."""
    wishes = read_annotations({MANAGED: managed} if managed else {})
    sandbox = Sandbox("s1", namespace, "web", "u1", wishes=wishes)
    request = cri.RunPodSandboxRequest()
    call = Call(1, RUNTIME + "RunPodSandbox", request, None, subject=Subject(sandbox))
    assert rule.on_request(call) is PASS
    assert rule.on_reply(call, cri.RunPodSandboxResponse(pod_sandbox_id="s1")) is PASS


@pytest.mark.parametrize(
    ("namespace", "managed", "done"),
    [
        ("shop", "", ["s1"]),
        ("shop", "false", []),
        ("kube-system", "", []),
        ("kube-system", "true", ["s1"]),
    ],
)
def test_managed_pods_only(namespace: str, managed: str, done: list[str]) -> None:
    seen: list[str] = []
    rule = PlainTcp(Policy(), lambda sandbox_id: not seen.append(sandbox_id))  # type: ignore[func-returns-value]
    replied(rule, namespace, managed)
    assert seen == done


def test_a_failure_is_only_told(caplog: pytest.LogCaptureFixture) -> None:
    def fail(sandbox_id: str) -> bool:
        raise PodferryError("no such namespace", where=sandbox_id)

    replied(PlainTcp(Policy(), fail))
    assert "MPTCP stays on pod=shop/web" in caplog.text


def test_the_network_of_a_sandbox_is_read_from_its_bundle(tmp_path: Path) -> None:
    places = Places(tasks=tmp_path, states=tmp_path)
    for name, namespaces in (
        ("own", [{"type": "pid"}, {"type": "network", "path": "/run/netns/a"}]),
        ("node", [{"type": "pid"}]),
    ):
        (tmp_path / name).mkdir()
        spec = {"linux": {"namespaces": namespaces}}
        (tmp_path / name / "config.json").write_text(json.dumps(spec))
    assert pods.network_of("own", places) == Path("/run/netns/a")
    assert pods.network_of("node", places) is None
    with pytest.raises(NotFound):
        pods.network_of("nobody", places)
