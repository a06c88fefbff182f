# SPDX-License-Identifier: Apache-2.0
"""Connections that a node rewrites: which go on after a move, one test for each row of the table.

Both nodes have the rules of kube-proxy and of CNI's bridge: what tracking calls invalid is dropped,
and what leaves the pods' ranges is masqueraded.
"""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path

import pytest

from shim.core.flows import Fate, Flow, told
from shim.network import nat, via
from tests.bpf.hold_net import bpf_root
from tests.bpf.reroute_move import Move, exchange, prepared_move, root_of
from tests.bpf.reroute_net import Node, Place, world
from tests.bpf.tcp_move import Connection, put, take, wake

pytestmark = pytest.mark.root

SERVICE, SERVICE_PORT, NODE_PORT, PORT = "10.96.0.10", 80, 30080, 7000
DATA = bytes(range(256)) * 3000


def rules(node: Node, *lines: str) -> None:
    if shutil.which("iptables") is None:
        pytest.skip("needs iptables")

    def apply() -> None:
        import subprocess

        for line in lines:
            subprocess.run(["iptables", "-w", *line.split()], check=True, timeout=20)

    node.run(apply)


def like_kubernetes(node: Node) -> None:
    rules(
        node,
        "-A FORWARD -m conntrack --ctstate INVALID -j DROP",
        "-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        # Whatever is no range of pods and comes from none of this node's is masqueraded: T's
        # rules know the old address of a moved pod no better than any stranger's.
        "-t nat -A POSTROUTING -o eth0 ! -d 10.244.0.0/16 -j MASQUERADE",
    )


@pytest.fixture(params=["link", "tunnel"])
def move(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Move]:
    with (
        world(routed=request.param == "tunnel") as net,
        bpf_root(tmp_path / "bpf") as root,
        prepared_move(net, root) as made,
    ):
        for node in net.nodes:
            like_kubernetes(node)
        yield made


@contextmanager
def listening(place: Place, port: int) -> Iterator[socket.socket]:
    with place.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((place.ipv4, port))
        listener.listen()
        yield listener


def moved(move: Move, of_pod: socket.socket) -> tuple[socket.socket, list[Flow]]:
    """Moves the pod's one connection, in the order of docs/reroute.md."""
    net = move.net
    move.shut()
    connection: Connection = take(of_pod)
    flows = net.source.run(
        lambda: nat.read(
            move.pod.addresses, ip_address(net.source.ipv4), root=root_of(move.root, net.source)
        )
    )
    there = put(move.heir, connection)
    back = {net.source.ipv4: net.target.run(lambda: (via.find(ip_address(net.source.ipv4)),))}
    net.target.run(lambda: nat.loosen(map(ip_address, move.prepared.old)))
    lost = net.target.run(
        lambda: nat.write(flows, move.prepared, back, 1, root=root_of(move.root, net.target))
    )
    assert lost == []
    move.commit()
    wake(there, connection)
    net.source.run(lambda: nat.loosen(move.pod.addresses))
    move.hand_over()
    move.forwarded()
    move.flip()
    return there, flows


def speak(one: socket.socket, other: socket.socket) -> None:
    exchange(one, other, DATA)
    exchange(other, one, DATA)


def test_a_client_of_the_pods_own_address_goes_on(move: Move) -> None:
    with listening(move.pod, PORT) as listener:
        client = move.net.outside.socket(socket.AF_INET, socket.SOCK_STREAM)
        client.connect((move.pod.ipv4, PORT))
        server, _ = listener.accept()
    speak(client, server)
    there, flows = moved(move, server)
    assert [flow.fate for flow in flows] == [Fate.KEPT]
    assert told(flows) == []
    speak(client, there)
    move.settle()
    speak(client, there)
    assert move.net.outside.counter("Tcp.EstabResets") == 0


def test_a_connection_to_a_service_keeps_its_translation_on_t(move: Move) -> None:
    backend = move.net.third.add_pod()
    for node in move.net.nodes:
        rules(
            node,
            f"-t nat -A PREROUTING -p tcp -d {SERVICE} --dport {SERVICE_PORT}"
            f" -j DNAT --to {backend.ipv4}:{PORT}",
        )
    with listening(backend, PORT) as listener:
        of_pod = move.pod.socket(socket.AF_INET, socket.SOCK_STREAM)
        of_pod.connect((SERVICE, SERVICE_PORT))
        server, address = listener.accept()
        assert address[0] == move.pod.ipv4
    speak(of_pod, server)
    there, flows = moved(move, of_pod)
    assert [flow.fate for flow in flows] == [Fate.KEPT]
    speak(there, server)
    move.settle()
    speak(there, server)


def test_a_masqueraded_connection_goes_on_through_its_node(move: Move) -> None:
    with listening(move.net.outside, PORT) as listener:
        of_pod = move.pod.socket(socket.AF_INET, socket.SOCK_STREAM)
        of_pod.connect((move.net.outside.ipv4, PORT))
        server, address = listener.accept()
        assert address[0] == move.net.source.ipv4
    speak(of_pod, server)
    there, flows = moved(move, of_pod)
    assert [flow.fate for flow in flows] == [Fate.ANCHORED]
    assert f"kept while {move.net.source.ipv4} lives" in told(flows)[0]
    speak(there, server)
    move.settle()
    speak(there, server)


@pytest.mark.parametrize("masqueraded", [False, True], ids=["local", "cluster"])
def test_a_client_of_a_node_port_goes_on_through_that_node(move: Move, masqueraded: bool) -> None:
    """externalTrafficPolicy Local and Cluster."""
    rules(
        move.net.source,
        f"-t nat -A PREROUTING -p tcp --dport {NODE_PORT} -j DNAT --to {move.pod.ipv4}:{PORT}",
    )
    if masqueraded:
        rules(move.net.source, f"-t nat -A POSTROUTING -p tcp -d {move.pod.ipv4} -j MASQUERADE")
    with listening(move.pod, PORT) as listener:
        client = move.net.outside.socket(socket.AF_INET, socket.SOCK_STREAM)
        client.connect((move.net.source.ipv4, NODE_PORT))
        server, address = listener.accept()
        assert (address[0] == move.net.outside.ipv4) is not masqueraded
    speak(client, server)
    there, flows = moved(move, server)
    assert [flow.fate for flow in flows] == [Fate.ANCHORED]
    speak(client, there)
    move.settle()
    speak(client, there)
