# SPDX-License-Identifier: Apache-2.0
"""The registry follows the calls that pass; each call gets the pod and container it is about."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from cri_proto import runtime_v1_pb2 as cri
from shim.core.methods import RUNTIME
from shim.core.policy import MANAGED, MIGRATION, PREFIX, Wishes
from shim.core.registry import Container, Registry
from shim.core.rules import PASS, Call, Hold, Refuse
from shim.errors import Code, InvalidAnnotation
from shim.rules.remember import Remember
from shim.rules.settle import AT_MOST_S, Settle

METADATA = cri.PodSandboxMetadata(name="web", namespace="shop", uid="u1", attempt=2)


def call(name: str, request: Any) -> Call:
    """A call of a RuntimeService method."""
    return Call(1, RUNTIME + name, request, None)


def pass_through(rule: Remember, name: str, request: Any, reply: Any = None) -> Call:
    """Takes a call through the rule: the request, then the runtime's reply."""
    made = call(name, request)
    assert rule.on_request(made) is PASS
    assert rule.on_reply(made, reply) is PASS
    return made


def run_pod(rule: Remember, sandbox_id: str = "s1", **config: Any) -> Call:
    """RunPodSandbox of shop/web."""
    request = cri.RunPodSandboxRequest(
        config=cri.PodSandboxConfig(metadata=METADATA, **config), runtime_handler="runc"
    )
    reply = cri.RunPodSandboxResponse(pod_sandbox_id=sandbox_id)
    return pass_through(rule, "RunPodSandbox", request, reply)


def create(rule: Remember, container_id: str = "c1", sandbox_id: str = "s1") -> Call:
    """CreateContainer of "app"."""
    request = cri.CreateContainerRequest(
        pod_sandbox_id=sandbox_id,
        config=cri.ContainerConfig(metadata=cri.ContainerMetadata(name="app", attempt=1)),
    )
    reply = cri.CreateContainerResponse(container_id=container_id)
    return pass_through(rule, "CreateContainer", request, reply)


def test_a_new_sandbox_is_remembered_with_all_that_decisions_need() -> None:
    registry = Registry()
    run_pod(Remember(registry), labels={"app": "web"}, annotations={MANAGED: "true", "x": "y"})
    (made,) = registry.sandboxes
    assert (made.sandbox_id, made.namespace, made.name, made.uid) == ("s1", "shop", "web", "u1")
    assert (made.attempt, made.runtime_handler) == (2, "runc")
    assert made.labels == {"app": "web"}
    assert made.wishes == Wishes(managed=True)


def test_a_container_knows_its_pod_from_the_first_call_on() -> None:
    registry = Registry()
    rule = Remember(registry)
    run_pod(rule)
    created = create(rule)
    assert created.subject.pod == "shop/web"
    assert created.subject.container == Container("c1", "s1", "app", 1)
    for name in ("StartContainer", "StopContainer", "ExecSync", "Exec", "Attach"):
        request = getattr(cri, f"{name}Request")(container_id="c1")
        asked = pass_through(rule, name, request)
        assert asked.subject == created.subject, name


def test_before_the_runtime_has_made_it_a_call_is_about_what_is_asked_for() -> None:
    registry = Registry()
    rule = Remember(registry)
    asked = call("RunPodSandbox", cri.RunPodSandboxRequest(
        config=cri.PodSandboxConfig(metadata=METADATA)))  # fmt: skip
    rule.on_request(asked)
    assert asked.subject.pod == "shop/web"
    assert list(registry.sandboxes) == []
    run_pod(rule)
    request = cri.CreateContainerRequest(pod_sandbox_id="s1")
    request.config.metadata.name = "sidecar"
    asked = call("CreateContainer", request)
    rule.on_request(asked)
    assert asked.subject.container is not None
    assert (asked.subject.container.container_id, asked.subject.container.name) == ("", "sidecar")


def test_an_error_of_the_runtime_is_not_remembered_as_success() -> None:
    registry = Registry()
    rule = Remember(registry)
    asked = call("RunPodSandbox", cri.RunPodSandboxRequest())
    rule.on_request(asked)
    rule.on_error(asked, 14)
    assert list(registry.sandboxes) == []


@pytest.mark.parametrize("shortened", [False, True])
def test_what_was_removed_is_forgotten(shortened: bool) -> None:
    registry = Registry()
    rule = Remember(registry)
    run_pod(rule, "5aadbeef")
    create(rule, "c0ffee", "5aadbeef")
    create(rule, "decade", "5aadbeef")
    removal = cri.RemoveContainerRequest(container_id="c0" if shortened else "c0ffee")
    assert pass_through(rule, "RemoveContainer", removal).subject.pod == "shop/web"
    assert [c.container_id for c in registry.containers] == ["decade"]
    removal_of_all = cri.RemovePodSandboxRequest(pod_sandbox_id="5a" if shortened else "5aadbeef")
    pass_through(rule, "RemovePodSandbox", removal_of_all)
    assert list(registry.sandboxes) == []
    assert list(registry.containers) == []


def test_stopping_forgets_nothing() -> None:
    registry = Registry()
    rule = Remember(registry)
    run_pod(rule)
    create(rule)
    pass_through(rule, "StopContainer", cri.StopContainerRequest(container_id="c1"))
    pass_through(rule, "StopPodSandbox", cri.StopPodSandboxRequest(pod_sandbox_id="s1"))
    assert len(list(registry.sandboxes)) == len(list(registry.containers)) == 1


def test_unknown_ids_pass() -> None:
    rule = Remember(Registry())
    asked = pass_through(rule, "StartContainer", cri.StartContainerRequest(container_id="who"))
    assert asked.subject.pod == ""
    create(rule, sandbox_id="unknown")


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        (MANAGED, "yes", "wanted is 'true' or 'false'"),
        (MIGRATION, "a b", "wanted is the name of a migration"),
    ],
)
def test_a_malformed_annotation_is_refused_by_pod_key_value_and_what_was_wanted(
    key: str, value: str, wanted: str
) -> None:
    registry = Registry()
    asked = call("RunPodSandbox", cri.RunPodSandboxRequest(
        config=cri.PodSandboxConfig(metadata=METADATA, annotations={key: value})))  # fmt: skip
    verdict = Remember(registry).on_request(asked)
    assert isinstance(verdict, Refuse)
    assert isinstance(verdict.error, InvalidAnnotation)
    said = str(verdict.error)
    assert said.startswith(f"pod shop/web: annotation {key}: it is {value!r}, {wanted}")
    assert list(registry.sandboxes) == []


def test_annotations_of_a_newer_release_pass_and_are_named_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        run_pod(Remember(Registry()), annotations={PREFIX + "later": "secret"})
    assert PREFIX + "later" in caplog.text
    assert "secret" not in caplog.text


def test_the_annotations_of_containers_are_not_ours_to_judge() -> None:
    request = cri.CreateContainerRequest(pod_sandbox_id="s1")
    request.config.annotations[MANAGED] = "nonsense"
    assert Remember(Registry()).on_request(call("CreateContainer", request)) is PASS


class Recollecting:
    """A recollection that notes how long a caller was ready to wait."""

    def __init__(self) -> None:
        self.waited_s: list[float] = []

    async def settled(self, at_most_s: float) -> None:
        self.waited_s.append(at_most_s)


def test_settle_holds_for_a_bounded_time_while_the_registry_is_not_complete() -> None:
    registry = Registry()
    recollection = Recollecting()
    rule = Settle(registry, recollection)  # type: ignore[arg-type]
    asked = call("StartContainer", cri.StartContainerRequest())
    verdict = rule.on_request(asked)
    assert isinstance(verdict, Hold)
    asyncio.run(_await(verdict))
    assert recollection.waited_s == [AT_MOST_S]
    registry.rebuild([], [])
    assert rule.on_request(asked) is PASS


async def _await(verdict: Hold) -> None:
    await verdict.until


def test_settle_stands_in_front_of_all_that_remember_sees() -> None:
    assert set(Settle.methods) == set(Remember.methods)


@pytest.mark.parametrize(
    ("name", "code", "asked"),
    [
        ("RunPodSandbox", Code.CANCELLED, 1),
        ("CreateContainer", Code.DEADLINE_EXCEEDED, 1),
        ("RemovePodSandbox", Code.UNAVAILABLE, 1),
        ("RunPodSandbox", Code.INVALID_ARGUMENT, 0),
        ("StartContainer", Code.CANCELLED, 0),
    ],
)
def test_an_undecided_end_asks_for_a_rebuild(name: str, code: Code, asked: int) -> None:
    doubts: list[bool] = []
    rule = Remember(Registry(), lambda: doubts.append(True))
    rule.on_error(Call(1, RUNTIME + name, None, None), code)
    assert len(doubts) == asked
