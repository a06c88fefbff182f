# SPDX-License-Identifier: Apache-2.0
"""Moves that must not happen: refused with what to do, or given up; the pod runs on untouched."""

from __future__ import annotations

from tests.testbed import images
from tests.testbed.moving import PKI, MovingNode, eventually
from tests.testbed.pods import ContainerSpec, PodSpec
from tests.workloads import start
from tests.workloads.start import REDIS

Pair = tuple[MovingNode, MovingNode]


def refused(node: MovingNode, *words: str) -> str:
    """Runs podferry, which must refuse; its words."""
    result = node.command(*words, check=False)
    assert result.status == 1, result.text
    return result.stderr.decode()


def test_an_unknown_pod_or_node_is_told(pair: Pair) -> None:
    first, second = pair
    assert "no pod 'nobody'" in refused(first, "migrate", "nobody", "--to", second.name)
    running = start.start(first.kubelet, REDIS)
    told = refused(first, "migrate", running.pod.sandbox_id, "--to", "node-z")
    assert "node-z" in told and second.name in told
    assert refused(first, "abort", "nothing")


def test_a_dry_run_touches_nothing(pair: Pair) -> None:
    first, second = pair
    running = start.start(first.kubelet, REDIS)
    before = first.migrations()
    result = first.command("migrate", running.pod.sandbox_id, "--to", second.name, "--dry-run")
    assert "can move" in result.text
    assert second.processes("redis-server") == []
    assert first.migrations() == before


def test_a_pod_that_cannot_be_checkpointed_is_refused(pair: Pair) -> None:
    first, second = pair
    nested = ("unshare", "-n", "sleep", "999")
    spec = PodSpec("odd", (ContainerSpec("main", images.BUSYBOX, nested, privileged=True),))
    pod = first.kubelet.run_pod(spec)
    eventually(lambda: first.processes("sleep"), first)
    told = refused(first, "migrate", pod.sandbox_id, "--to", second.name)
    assert "cannot move" in told
    assert first.sandbox_of(spec.uid)


def test_a_node_that_does_not_answer_is_told(pair: Pair) -> None:
    first, second = pair
    running = start.start(first.kubelet, REDIS)
    second.shim.stop()
    told = refused(first, "migrate", running.pod.sandbox_id, "--to", second.name)
    assert "does not answer" in told and "doctor" in told
    second.restart({})
    first.command("migrate", running.pod.sandbox_id, "--to", second.name)


def test_a_certificate_of_another_authority_is_told(pair: Pair) -> None:
    first, second = pair
    running = start.start(first.kubelet, REDIS)
    whole = second.node.read(f"{PKI}/ca.crt")
    # Of another authority: the source's certificate is nobody's then.
    other = f"podferry pki init /var/tmp/ca && cp /var/tmp/ca/ca.crt {PKI}/ca.crt"
    second.node.exec(["sh", "-c", f"{other}; rm -rf /var/tmp/ca"])
    try:
        second.restart({})
        told = refused(first, "migrate", running.pod.sandbox_id, "--to", second.name)
        assert "certificate" in told
    finally:
        second.node.write(f"{PKI}/ca.crt", whole)
        second.restart({})
