# SPDX-License-Identifier: Apache-2.0
"""A pod and a client as network namespaces on one bridge, for the tests of the hold."""

from __future__ import annotations

import ctypes
import json
import os
import secrets
import select
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any

import pytest

from shim.network.hold import Hold

CLONE_NEWNET = 0x40000000
SO_SNDBUFFORCE, SO_RCVBUFFORCE = 32, 33
PATIENCE_S = 30.0  # a crowded machine takes its time; only a failure waits for so long
BIG_BUFFER_BYTES = 1 << 26
HOLD_LINK_PREFIX = "pfh"

_libc = ctypes.CDLL(None, use_errno=True)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, timeout=PATIENCE_S)


def until(condition: Callable[[], Any], what: str) -> Any:
    """The first true value of a condition; fails after PATIENCE_S."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not (value := condition()):
        if time.monotonic() > deadline_s:
            pytest.fail(f"never happened: {what}")
        time.sleep(0.002)
    return value


@contextmanager
def node_netns(netns: str) -> Iterator[None]:
    """This thread, and what it starts, in a new namespace: another's firewall has no say there."""
    with Path("/proc/thread-self/ns/net").open() as before:
        ip("netns", "add", netns)
        try:
            _enter(Path("/run/netns") / netns)
            ip("link", "set", "lo", "up")
            yield
        finally:
            if _libc.setns(before.fileno(), CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "cannot return to the first namespace")
            ip("netns", "delete", netns)


def _enter(path: Path) -> None:
    with path.open() as file:
        if _libc.setns(file.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns {path}")


def readable(hold: Hold, timeout_s: float) -> bool:
    """Whether the event of a hold comes within a time."""
    poller = select.poll()
    poller.register(hold.event_fd, select.POLLIN)
    return bool(poller.poll(timeout_s * 1000))


def inside(netns: str, body: Callable[[], Any]) -> Any:
    """Calls on a thread of its own in a network namespace; sockets made there stay there."""
    result: list[Any] = []

    def run() -> None:
        try:
            _enter(Path("/run/netns") / netns)
            result.append(body())
        except BaseException as error:
            result.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if isinstance(result[0], BaseException):
        raise result[0]
    return result[0]


@dataclass(frozen=True)
class Net:
    """The namespaces' names, the devices of this end, and the addresses."""

    pod_netns: str
    client_netns: str
    bridge: str
    pod_link: str
    client_link: str
    host4: str
    pod4: str
    client4: str
    pod6: str
    client6: str

    @property
    def netns_path(self) -> Path:
        return Path("/run/netns") / self.pod_netns

    @property
    def addresses(self) -> tuple[IPv4Address | IPv6Address, ...]:
        return ip_address(self.pod4), ip_address(self.pod6)

    def pod(self, family: int) -> str:
        return self.pod4 if family == socket.AF_INET else self.pod6

    def client(self, family: int) -> str:
        return self.client4 if family == socket.AF_INET else self.client6

    def socket_of(self, netns: str, family: int, kind: int) -> socket.socket:
        made: socket.socket = inside(netns, lambda: socket.socket(family, kind))
        made.settimeout(PATIENCE_S)
        for option in (SO_SNDBUFFORCE, SO_RCVBUFFORCE):
            if kind == socket.SOCK_DGRAM:
                made.setsockopt(socket.SOL_SOCKET, option, BIG_BUFFER_BYTES)
        return made

    def pod_socket(self, family: int, kind: int) -> socket.socket:
        """Bound to the pod's address, and listening if that is a thing for it."""
        made = self.socket_of(self.pod_netns, family, kind)
        made.bind((self.pod(family), 0))
        if kind == socket.SOCK_STREAM:
            made.listen(64)
        return made

    def client_socket(self, family: int, kind: int) -> socket.socket:
        return self.socket_of(self.client_netns, family, kind)

    def connection(self, family: int) -> tuple[socket.socket, socket.socket]:
        """The client's and the pod's end of a connection."""
        with self.pod_socket(family, socket.SOCK_STREAM) as listener:
            client = self.client_socket(family, socket.SOCK_STREAM)
            client.connect(listener.getsockname()[:2])
            accepted, _ = listener.accept()
            accepted.settimeout(PATIENCE_S)
            return client, accepted

    def keep_speed_when_idle(self) -> None:
        """New connections of the client do not begin anew after a pause, say on a busy machine."""
        name = Path("/proc/sys/net/ipv4/tcp_slow_start_after_idle")
        inside(self.client_netns, lambda: name.write_text("0"))

    def pod_counter(self, protocol: str, name: str) -> int:
        """A number of /proc/net/snmp of the pod's namespace."""
        text: str = inside(
            self.pod_netns, lambda: Path("/proc/thread-self/net/snmp").read_text("ascii")
        )
        names, values = (
            line.split()[1:] for line in text.splitlines() if line.startswith(f"{protocol}:")
        )
        return int(values[names.index(name)])


@contextmanager
def net() -> Iterator[Net]:
    """Makes the namespaces, the bridge and the addresses, and takes them away."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("needs root and the ip command (package iproute2)")
    word = secrets.token_hex(4)
    third = secrets.randbelow(250) + 1
    made = Net(
        f"pf-pod-{word}",
        f"pf-client-{word}",
        f"pbr{word}",
        f"pvp{word}",
        f"pvc{word}",
        f"169.254.{third}.1",
        f"169.254.{third}.2",
        f"169.254.{third}.3",
        f"fd6f:{word[:4]}::2",
        f"fd6f:{word[:4]}::3",
    )
    with node_netns(f"pf-node-{word}"):
        try:
            _build(made)
            yield made
        finally:
            for netns in (made.pod_netns, made.client_netns):
                subprocess.run(["ip", "netns", "delete", netns], check=False, timeout=PATIENCE_S)


def _build(made: Net) -> None:
    ip("link", "add", made.bridge, "type", "bridge")
    ip("address", "add", f"{made.host4}/24", "dev", made.bridge)
    ip("link", "set", made.bridge, "up")
    for netns, link, v4, v6 in (
        (made.pod_netns, made.pod_link, made.pod4, made.pod6),
        (made.client_netns, made.client_link, made.client4, made.client6),
    ):
        ip("netns", "add", netns)
        ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", netns)
        ip("link", "set", link, "master", made.bridge, "up")
        ip("-n", netns, "link", "set", "lo", "up")
        ip("-n", netns, "address", "add", f"{v4}/24", "dev", "eth0")
        ip("-n", netns, "address", "add", f"{v6}/64", "dev", "eth0", "nodad")
        ip("-n", netns, "link", "set", "eth0", "up")


@contextmanager
def bpf_root(directory: Path) -> Iterator[Path]:
    """A bpf file system of the test's own."""
    directory.mkdir(exist_ok=True)
    if subprocess.run(["mount", "-t", "bpf", "bpf", directory], check=False).returncode != 0:
        pytest.skip("no bpf file system can be mounted here")
    try:
        yield directory
    finally:
        subprocess.run(["umount", directory], check=True, timeout=PATIENCE_S)


def bpftool(*arguments: str) -> Any:
    done = subprocess.run(
        ["bpftool", "-j", *arguments], check=False, timeout=PATIENCE_S, stdout=subprocess.PIPE
    )
    return json.loads(done.stdout) if done.returncode == 0 else None


@dataclass(frozen=True)
class Traces:
    """What a hold has in the kernel: the ids of its programs and maps, and its devices' names."""

    programs: frozenset[int]
    maps: frozenset[int]
    links: frozenset[int]
    devices: frozenset[str]

    def left(self) -> str:
        """What of it is still there; "" for nothing."""
        for kind, ids in (("prog", self.programs), ("map", self.maps), ("link", self.links)):
            for number in ids:
                if bpftool(kind, "show", "id", str(number)):
                    return f"{kind} {number}"
        devices = {name for _, name in socket.if_nameindex()}
        return ", ".join(sorted(self.devices & devices))

    def assert_gone(self) -> None:
        """The kernel frees programs and links some time after their last use."""
        until(lambda: not self.left(), "everything of the hold is gone")


def traces_of(pin_dir: Path) -> Traces:
    """Reads them from a hold's pins."""
    if shutil.which("bpftool") is None:
        pytest.skip("needs bpftool")
    programs, maps, links = set(), set(), set()
    for pin in pin_dir.iterdir():
        for kind, ids in (("prog", programs), ("map", maps), ("link", links)):
            shown = bpftool(kind, "show", "pinned", str(pin))
            if shown and "id" in shown:
                ids.add(shown["id"])
                maps.update(shown.get("map_ids", ()))
    devices = {name for _, name in socket.if_nameindex() if name.startswith(HOLD_LINK_PREFIX)}
    return Traces(frozenset(programs), frozenset(maps), frozenset(links), frozenset(devices))
