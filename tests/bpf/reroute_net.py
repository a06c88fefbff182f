# SPDX-License-Identifier: Apache-2.0
"""Nodes, their bridges and pods, a router and a client outside, all as network namespaces."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any

import pytest

from tests.bpf.hold_net import PATIENCE_S, inside, ip, node_netns

SO_SNDBUFFORCE, SO_RCVBUFFORCE = 32, 33
BIG_BUFFER_BYTES = 1 << 26


@dataclass
class Place:
    """A network namespace that sockets can be made in, and its addresses."""

    netns: str
    ipv4: str
    ipv6: str

    @property
    def netns_path(self) -> Path:
        return Path("/run/netns") / self.netns

    @property
    def addresses(self) -> tuple[IPv4Address | IPv6Address, ...]:
        return ip_address(self.ipv4), ip_address(self.ipv6)

    def address(self, family: int) -> str:
        return self.ipv4 if family == socket.AF_INET else self.ipv6

    def run(self, body: Callable[[], Any]) -> Any:
        return inside(self.netns, body)

    def ip(self, *arguments: str) -> None:
        ip("-n", self.netns, *arguments)

    def set(self, name: str, value: str) -> None:
        self.run(lambda: (Path("/proc/sys") / name).write_text(value))

    def socket(self, family: int, kind: int) -> socket.socket:
        made: socket.socket = self.run(lambda: socket.socket(family, kind))
        made.settimeout(PATIENCE_S)
        if kind == socket.SOCK_DGRAM:
            for option in (SO_SNDBUFFORCE, SO_RCVBUFFORCE):
                made.setsockopt(socket.SOL_SOCKET, option, BIG_BUFFER_BYTES)
        return made

    def counter(self, name: str) -> int:
        """A number of /proc/net/snmp or netstat, as `Tcp.RetransSegs` or `TcpExt.TCPTimeouts`."""
        group, field_name = name.split(".")

        def read() -> str:
            files = ("snmp", "netstat")
            return "".join(Path(f"/proc/thread-self/net/{one}").read_text() for one in files)

        names, values = (
            line.split()[1:] for line in self.run(read).splitlines() if line.startswith(f"{group}:")
        )
        return int(values[names.index(field_name)])


@dataclass
class Node(Place):
    """A node: uplink `eth0`, bridge `cni0`, pods."""

    number: int
    pods: list[Place] = field(default_factory=list)

    def add_pod(self) -> Place:
        """A pod behind the bridge, with addresses of the node's own range."""
        host = 10 + len(self.pods)
        pod = Place(
            f"{self.netns}-{host}", f"10.244.{self.number}.{host}", f"fd44:{self.number}::{host}"
        )
        ip("netns", "add", pod.netns)
        _without_dad(pod)
        self.pods.append(pod)
        self.ip(*f"link add veth{host} type veth peer name eth0 netns {pod.netns}".split())
        self.ip("link", "set", f"veth{host}", "master", "cni0", "up")
        pod.ip("link", "set", "lo", "up")
        pod.ip("address", "add", f"{pod.ipv4}/24", "dev", "eth0")
        pod.ip("address", "add", f"{pod.ipv6}/64", "dev", "eth0", "nodad")
        pod.ip("link", "set", "eth0", "up")
        pod.ip("route", "add", "default", "via", f"10.244.{self.number}.1")
        pod.ip("-6", "route", "add", "default", "via", f"fd44:{self.number}::1")
        return pod

    def remove_pod(self, pod: Place) -> None:
        """As CNI's deletion: the namespace goes, and its veth with it."""
        self.ip("link", "delete", f"veth{pod.ipv4.rpartition('.')[2]}")
        ip("netns", "delete", pod.netns)
        self.pods.remove(pod)


@dataclass
class World:
    """S, T and a third node; a router that a client is behind, and T if it is `routed`."""

    word: str
    source: Node
    target: Node
    third: Node
    router: Place
    outside: Place

    @property
    def nodes(self) -> tuple[Node, Node, Node]:
        return self.source, self.target, self.third


def _segment(number: int, routed: bool) -> int:
    return 1 if routed and number == 2 else 0


@contextmanager
def world(*, routed: bool = False) -> Iterator[World]:
    """Makes all, and takes it away.

    Args:
        routed: whether T is on a segment of its own, behind the router.
    """
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("needs root and the ip command (package iproute2)")
    word = secrets.token_hex(3)
    nodes = [
        Node(f"pf{letter}-{word}", f"10.9.{_segment(n, routed)}.{n}",
             f"fd09:{_segment(n, routed)}::{n}", n)
        for n, letter in ((1, "s"), (2, "t"), (3, "n"))
    ]  # fmt: skip
    router = Place(f"pfr-{word}", "10.9.0.254", "fd09:0::254")
    outside = Place(f"pfo-{word}", "192.0.2.7", "fd0a::7")
    made = World(word, *nodes, router, outside)
    with node_netns(f"pfw-{word}"):
        try:
            for place in (*nodes, router, outside):
                ip("netns", "add", place.netns)
                _without_dad(place)
                place.ip("link", "set", "lo", "up")
            _build(made, routed)
            yield made
        finally:
            places = [pod for node in nodes for pod in node.pods]
            for place in (*places, *nodes, router, outside):
                subprocess.run(["ip", "netns", "delete", place.netns], check=False, timeout=20)


def _without_dad(place: Place) -> None:
    """Link-local addresses work at once, as those of a machine that has run for a second."""
    place.set("net/ipv6/conf/default/accept_dad", "0")


def _plug_in(place: Place, segment: int, device: str = "eth0") -> None:
    port = f"p{segment}{place.netns[2:12]}"
    ip("link", "add", port, "type", "veth", "peer", "name", device, "netns", place.netns)
    ip("link", "set", port, "master", f"sw{segment}", "up")
    place.ip("link", "set", device, "up")


def _build(made: World, routed: bool) -> None:
    for segment in (0, 1):
        ip("link", "add", f"sw{segment}", "type", "bridge")
        ip("link", "set", f"sw{segment}", "up")
        _plug_in(made.router, segment, f"eth{segment}")
        made.router.ip("address", "add", f"10.9.{segment}.254/24", "dev", f"eth{segment}")
        made.router.ip("address", "add", f"fd09:{segment}::254/64", "dev", f"eth{segment}", "nodad")
    _outside(made)
    for node in made.nodes:
        segment = _segment(node.number, routed)
        _plug_in(node, segment)
        node.ip("address", "add", f"{node.ipv4}/24", "dev", "eth0")
        node.ip("address", "add", f"{node.ipv6}/64", "dev", "eth0", "nodad")
        # A MAC of its own, as CNI's bridge plugin sees to: else it would be that of some port.
        mac = f"02:00:00:00:44:{node.number:02x}"
        node.ip("link", "add", "cni0", "address", mac, "type", "bridge")
        node.ip("address", "add", f"10.244.{node.number}.1/24", "dev", "cni0")
        node.ip("address", "add", f"fd44:{node.number}::1/64", "dev", "cni0", "nodad")
        node.ip("link", "set", "cni0", "up")
        node.ip("route", "add", "default", "via", f"10.9.{segment}.254")
        node.ip("-6", "route", "add", "default", "via", f"fd09:{segment}::254")
        _forward(node)
    for node in made.nodes:
        _pod_ranges(made, node, routed)
    for node in made.nodes:
        _greet(made.outside, node)


def _greet(outside: Place, node: Node) -> None:
    """They have spoken before: the router knows the node's MAC."""
    for family in (socket.AF_INET, socket.AF_INET6):
        with outside.socket(family, socket.SOCK_DGRAM) as one:
            one.connect((node.address(family), 9))
            with pytest.raises(ConnectionRefusedError):
                one.send(b"x")
                one.recv(1)


def _forward(place: Place) -> None:
    place.set("net/ipv4/ip_forward", "1")
    place.set("net/ipv6/conf/all/forwarding", "1")


def _outside(made: World) -> None:
    made.router.ip(*f"link add out type veth peer name eth0 netns {made.outside.netns}".split())
    for place, ipv4, ipv6, device in (
        (made.router, "192.0.2.1", "fd0a::1", "out"),
        (made.outside, made.outside.ipv4, made.outside.ipv6, "eth0"),
    ):
        place.ip("address", "add", f"{ipv4}/24", "dev", device)
        place.ip("address", "add", f"{ipv6}/64", "dev", device, "nodad")
        place.ip("link", "set", device, "up")
    made.outside.ip("route", "add", "default", "via", "192.0.2.1")
    made.outside.ip("-6", "route", "add", "default", "via", "fd0a::1")
    _forward(made.router)


def _pod_ranges(made: World, node: Node, routed: bool) -> None:
    """Each node and the router know whose pods are where."""
    range4, range6 = f"10.244.{node.number}.0/24", f"fd44:{node.number}::/64"
    for other in (*made.nodes, made.router):
        if other is node:
            continue
        segment = _segment(getattr(other, "number", 0), routed)
        direct = other is made.router or segment == _segment(node.number, routed)
        hop4, hop6 = node.ipv4, node.ipv6
        if not direct:
            hop4, hop6 = f"10.9.{segment}.254", f"fd09:{segment}::254"
        other.ip("route", "add", range4, "via", hop4)
        other.ip("-6", "route", "add", range6, "via", hop6)
