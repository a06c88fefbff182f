# SPDX-License-Identifier: Apache-2.0
"""The activity programs on a real veth whose other end is in a network namespace of its own."""

from __future__ import annotations

import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import pytest
from pyroute2 import IPRoute

from shim._native import Activity, Direction, Program
from tests.bpf.hold_net import PATIENCE_S, ip, node_netns
from tests.bpf.packets import ETH_P_IP, ethernet, ipv4

DATAGRAMS = 20
PAYLOAD = b"x" * 100
# Where tc's clsact filters hang, from <linux/pkt_sched.h>: TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_...).
CLSACT_INGRESS, CLSACT_EGRESS = 0xFFFFFFF2, 0xFFFFFFF3

ASK = """
import socket, sys
address, port, count, size = sys.argv[1], *map(int, sys.argv[2:])
sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
sock.settimeout(30)
for _ in range(count):
    sock.sendto(b"x" * size, (address, port))
    if len(sock.recv(2048)) != size:
        sys.exit("a wrong answer")
"""


@dataclass(frozen=True)
class Pod:
    """A namespace with one end of a veth; the other end is ours."""

    netns: str
    host_link: str
    host4: str = "169.254.213.1"
    pod4: str = "169.254.213.2"
    host6: str = "fd6f:64::1"
    pod6: str = "fd6f:64::2"

    def ask(self, address: str, port: int) -> subprocess.Popen[bytes]:
        """Starts a process inside that sends DATAGRAMS datagrams, one after the other."""
        inside = ["ip", "netns", "exec", self.netns, sys.executable, "-c", ASK]
        numbers = [str(port), str(DATAGRAMS), str(len(PAYLOAD))]
        return subprocess.Popen([*inside, address, *numbers])


@pytest.fixture
def pod(activity: Activity) -> Iterator[Pod]:
    if shutil.which("ip") is None:
        pytest.skip("needs the ip command (package iproute2)")
    suffix = secrets.token_hex(4)
    made = Pod(f"pf-bpf-{suffix}", f"pfh{suffix}")
    with node_netns(f"pf-node-{suffix}"):
        ip("netns", "add", made.netns)
        try:
            _join(made)
            yield made
        finally:
            # The veth goes with the namespace that holds its other end, but only some time later.
            subprocess.run(
                ["ip", "link", "delete", made.host_link], check=False, timeout=PATIENCE_S
            )
            ip("netns", "delete", made.netns)


def _join(made: Pod) -> None:
    inside = ("-n", made.netns)
    ip("link", "add", made.host_link, "type", "veth", "peer", "name", "eth0", "netns", made.netns)
    for where, link, v4, v6 in (
        ((), made.host_link, made.host4, made.host6),
        (inside, "eth0", made.pod4, made.pod6),
    ):
        ip(*where, "address", "add", f"{v4}/30", "dev", link)
        ip(*where, "address", "add", f"{v6}/64", "dev", link, "nodad")
        ip(*where, "link", "set", link, "up")


def attach_xdp(link: str, activity: Activity) -> None:
    with IPRoute() as route:
        index = route.link_lookup(ifname=link)[0]
        route.link("set", index=index, xdp_fd=activity.program_fd(Program.XDP))


def attach_tc(parent: int) -> Callable[[str, Activity], None]:
    def attach(link: str, activity: Activity) -> None:
        with IPRoute() as route:
            index = route.link_lookup(ifname=link)[0]
            route.tc("add", "clsact", index)
            route.tc(
                "add-filter",
                "bpf",
                index,
                ":1",
                fd=activity.program_fd(Program.TC),
                name="activity",
                parent=parent,
                classid=1,
                direct_action=True,
            )

    return attach


def answer_all(host: str, pod: Pod) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as answerer:
        answerer.bind((host, 0))
        answerer.settimeout(PATIENCE_S)
        asker = pod.ask(host, answerer.getsockname()[1])
        try:
            for _ in range(DATAGRAMS):
                payload, sender = answerer.recvfrom(2048)
                answerer.sendto(payload, sender)
            assert asker.wait(timeout=PATIENCE_S) == 0
        finally:
            asker.kill()
            asker.wait()


@pytest.mark.parametrize(
    ("attach", "direction"),
    [
        pytest.param(attach_xdp, "sent", id="XDP"),
        pytest.param(attach_tc(CLSACT_INGRESS), "sent", id="tc ingress"),
        pytest.param(attach_tc(CLSACT_EGRESS), "received", id="tc egress"),
    ],
)
@pytest.mark.parametrize("family", ["IPv4", "IPv6"])
def test_a_pods_datagrams_arrive_and_are_counted(
    activity: Activity,
    pod: Pod,
    attach: Callable[[str, Activity], None],
    direction: str,
    family: str,
) -> None:
    host, inner = (pod.host4, pod.pod4) if family == "IPv4" else (pod.host6, pod.pod6)
    frame_bytes = 14 + (20 if family == "IPv4" else 40) + 8 + len(PAYLOAD)
    activity.watch(ip_address(inner))
    attach(pod.host_link, activity)

    answer_all(host, pod)

    record = activity.read(ip_address(inner))
    seen: Direction = getattr(record, direction)
    if family == "IPv4":
        assert (seen.packets, seen.byte_count) == (DATAGRAMS, DATAGRAMS * frame_bytes)
    else:  # neighbour discovery speaks IPv6 from and to the same address
        assert seen.packets >= DATAGRAMS
        assert seen.byte_count >= DATAGRAMS * frame_bytes
    assert seen.last_ns > 0
    other = record.received if direction == "sent" else record.sent
    assert other == Direction(0, 0, 0)


def test_counts_outlive_the_process_where_they_are_pinned(
    activity: Activity, tmp_path: Path
) -> None:
    if subprocess.run(["mount", "-t", "bpf", "bpf", tmp_path], check=False).returncode != 0:
        pytest.skip("no bpf file system can be mounted here")
    try:
        address = ip_address("10.9.8.7")
        pins = tmp_path / "podferry"
        with Activity(pins) as first:
            first.watch(address)
            first.test_run(Program.XDP, ethernet(ipv4("192.0.2.1", str(address)), ETH_P_IP))
        with Activity(pins) as second:
            assert second.read(address).received.packets == 1
        (pins / "activity_addresses").unlink()
    finally:
        subprocess.run(["umount", tmp_path], check=True, timeout=PATIENCE_S)
