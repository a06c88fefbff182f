# SPDX-License-Identifier: Apache-2.0
"""Fixtures that give tests real nodes; one pair serves the session, pods live for one test.

node, two_nodes        nodes without any pod, podferry not running
systemd_node           one more node, fresh for the test, booted by systemd
kubelet, two_kubelets  kubelet on containerd's own socket
shim                   podferry on ``node``, installed from the tree as it stands
shim_kubelet           kubelet on podferry's socket
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator

import pytest

from tests.testbed import engine, run, service, testbed
from tests.testbed.errors import EngineMissing
from tests.testbed.kubelet import Kubelet
from tests.testbed.node import Node
from tests.testbed.service import Shim

ENGINE = "docker_engine"
PAIR = "node_pair"
SYSTEMD = "systemd_node"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what uses nodes, so that ``-m 'not node'`` leaves it out."""
    for item in items:
        if ENGINE in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.root)
            item.add_marker(pytest.mark.node)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Adds the ends of the nodes' logs to a failure."""
    report = yield
    fixtures = getattr(item, "funcargs", {})
    if report.failed:
        for node in [*fixtures.get(PAIR, ()), *filter(None, [fixtures.get(SYSTEMD)])]:
            for name, tail in node.logs().items():
                report.sections.append((f"{name} on {node.name}", tail))
    return report


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish() -> None:
    """Removes what this run may have left on the engine in spite of its fixtures."""
    client = engine.connect() if engine.in_use() else None
    if client is not None:
        for name in run.remove_leftovers(client, ours=True):
            engine.say(f"removed {name}, which a test had left")
        client.close()


@pytest.fixture(scope="session")
def docker_engine() -> None:
    """Skips what needs nodes where none can be had."""
    if os.geteuid() != 0:
        pytest.skip("needs root: nodes are containers with their own cgroups and mounts")
    try:
        engine.ensure().close()
    except EngineMissing as error:
        pytest.skip(f"needs a Docker engine: {error}")


@pytest.fixture(scope="session")
def node_pair(docker_engine: None) -> Iterator[list[Node]]:
    """Two nodes for the whole session."""
    with testbed.nodes(2) as made:
        yield made


@pytest.fixture
def two_nodes(node_pair: list[Node]) -> Iterator[tuple[Node, Node]]:
    """Both nodes, whose pods and podferry end with the test."""
    first, second = node_pair
    try:
        yield first, second
    finally:
        for node in node_pair:
            _tidy(node)


@pytest.fixture
def systemd_node(docker_engine: None) -> Iterator[Node]:
    """A node of its own for this test, booted by systemd; containerd is its service."""
    with testbed.nodes(1, "systemd") as (made,):
        yield made


@pytest.fixture
def node(two_nodes: tuple[Node, Node]) -> Node:
    """One node."""
    return two_nodes[0]


@pytest.fixture
def kubelet(node: Node) -> Iterator[Kubelet]:
    """kubelet on containerd's own socket."""
    with Kubelet(node) as made:
        yield made


@pytest.fixture
def two_kubelets(two_nodes: tuple[Node, Node]) -> Iterator[tuple[Kubelet, Kubelet]]:
    """kubelet on each node, on containerd's own socket."""
    with Kubelet(two_nodes[0]) as first, Kubelet(two_nodes[1]) as second:
        yield first, second


@pytest.fixture
def shim(node: Node) -> Iterator[Shim]:
    """podferry with default settings, running on ``node``."""
    service.install(node)
    with Shim(node) as made:
        yield made


@pytest.fixture
def shim_kubelet(node: Node, shim: Shim) -> Iterator[Kubelet]:
    """kubelet on podferry's socket."""
    with Kubelet(node, service.SOCKET) as made:
        yield made


def _tidy(node: Node) -> None:
    """Ends what a test may have left: its daemons, a stopped containerd, its pods."""
    for daemon in node.daemons:
        daemon.stop("KILL")
    node.daemons.clear()
    if not node.containerd.daemon.is_running():
        node.containerd.start()
    with Kubelet(node) as direct:
        for sandbox in direct.cri.list_pod_sandbox():
            direct.cri.stop_pod_sandbox(sandbox.id)
            direct.cri.remove_pod_sandbox(sandbox.id)
