# SPDX-License-Identifier: Apache-2.0
"""A hold outlives its processes and leaves nothing when it is removed, whatever was killed when."""

from __future__ import annotations

import ctypes
import platform
import signal
import socket
import struct
import subprocess
import sys
from ipaddress import ip_address
from pathlib import Path

import pytest

from shim._native_hold import Phase
from shim.errors import InvalidInput, NotFound, Refused
from shim.network import plug
from shim.network.hold import Hold, ReleaseActions
from tests.bpf.hold_net import PATIENCE_S, Net, ip, traces_of, until
from tests.compare import assert_in_order

pytestmark = pytest.mark.root

BPF_MAP_UPDATE_ELEM = 2
SYS_BPF = {"x86_64": 321, "aarch64": 280}
DATAGRAMS = 200

# Does one thing to a hold and is killed: at its end, or before or after a call named by its last
# argument.
HOLDER = """
import os, signal, sys
from ipaddress import ip_address
from pathlib import Path
from shim import _native_hold
from shim._native_hold import InstalledHold
from shim.network import hold, plug

root, netns, address4, address6, verb, kill = sys.argv[1:]

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def deadly(owner, name, when):
    original = getattr(owner, name)
    def call(*arguments, **named):
        if when == "before":
            die()
        result = original(*arguments, **named)
        die()
        return result
    setattr(owner, name, call)

if kill:
    when, owner, name = kill.split(":")
    owners = {"plug": plug, "native": _native_hold, "installed": InstalledHold}
    deadly(owners[owner], name, when)

if verb == "create":
    made = hold.Hold.create(
        "pod-1", Path(netns), [ip_address(address4), ip_address(address6)], root=Path(root)
    )
    made.arm()
else:
    getattr(hold.Hold("pod-1", Path(root)), verb)()
die()
"""


def killed_holder(world: tuple[Net, Path], verb: str, kill: str = "") -> None:
    """Has another process do something, which is always ended by SIGKILL."""
    made, root = world
    arguments = [str(root), str(made.netns_path), made.pod4, made.pod6, verb, kill]
    done = subprocess.run([sys.executable, "-c", HOLDER, *arguments], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL


def do(actions: ReleaseActions) -> None:
    """A release without the library: bpf(2) and a netlink socket."""
    libc = ctypes.CDLL(None, use_errno=True)
    for update in actions.map_updates:
        key = ctypes.create_string_buffer(update.key, len(update.key))
        value = ctypes.create_string_buffer(update.value, len(update.value))
        attribute = struct.pack(
            "=IxxxxQQQ", update.fd, ctypes.addressof(key), ctypes.addressof(value), 0
        )
        number = SYS_BPF[platform.machine()]
        assert libc.syscall(number, BPF_MAP_UPDATE_ELEM, attribute, len(attribute)) == 0
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as netlink:
        for message in actions.messages:
            netlink.send(message)
            assert struct.unpack_from("=i", netlink.recv(65536), 16)[0] == 0


def send_all(client: socket.socket, address: tuple[str, int]) -> None:
    for number in range(DATAGRAMS):
        client.sendto(struct.pack("!I", number), address)


def receive_all(server: socket.socket) -> list[int]:
    return [struct.unpack("!I", server.recv(200))[0] for _ in range(DATAGRAMS)]


def test_a_killed_holders_packets_are_released_by_another_without_the_library(
    world: tuple[Net, Path],
) -> None:
    made, root = world
    killed_holder(world, "create")
    with (
        made.pod_socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
        made.client_socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        send_all(client, server.getsockname())
        (found,) = Hold.find_all(root)
        with found:
            assert found.is_complete
            assert found.hold_id == "pod-1"
            assert found.phase is Phase.HELD
            assert found.addresses == frozenset(made.addresses)
            until(lambda: found.counters.held_packets == DATAGRAMS, "all are held")
            assert found.take_event() is not None
            do(found.release_actions())
            assert_in_order(receive_all(server), DATAGRAMS)
            traces = traces_of(found.pin_dir)
            found.remove()
        traces.assert_gone()


def test_a_release_that_was_killed_half_way_is_ended_by_another(world: tuple[Net, Path]) -> None:
    made, root = world
    killed_holder(world, "create")
    with (
        made.pod_socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
        made.client_socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        half = DATAGRAMS // 2
        for number in range(half):
            client.sendto(struct.pack("!I", number), server.getsockname())
        killed_holder(world, "release", "before:plug:send")
        with Hold("pod-1", root) as found:
            assert found.phase is Phase.RELEASING
            for number in range(half, DATAGRAMS):  # must not overtake those in the closed plug
                client.sendto(struct.pack("!I", number), server.getsockname())
            found.release()
            assert_in_order(receive_all(server), DATAGRAMS)
            found.remove()


@pytest.mark.parametrize(
    "kill",
    [
        "before:plug:create",
        "before:plug:send",
        "after:plug:send",
        "after:plug:create",
        "before:native:install",
        "after:native:install",
        "before:plug:close",
        "after:plug:close",
        "after:installed:rearm",
        "before:installed:set_phase",
    ],
)
def test_a_making_that_was_killed_is_found_and_removed(world: tuple[Net, Path], kill: str) -> None:
    made, root = world
    killed_holder(world, "create", kill)
    with (
        made.pod_socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
        made.client_socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        client.sendto(b"passes", server.getsockname())
        assert server.recv(100) == b"passes"
        (found,) = Hold.find_all(root)
        traces = traces_of(found.pin_dir)
        found.remove()
        traces.assert_gone()
        assert Hold.find_all(root) == []
        client.sendto(b"passes", server.getsockname())
        assert server.recv(100) == b"passes"


@pytest.mark.parametrize(
    "kill",
    [
        "before:native:uninstall",
        "after:native:uninstall",
        "before:plug:remove",
        "after:plug:remove",
    ],
)
def test_a_removal_that_was_killed_is_ended_by_another(world: tuple[Net, Path], kill: str) -> None:
    made, root = world
    killed_holder(world, "create")
    with (
        made.pod_socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
        made.client_socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        send_all(client, server.getsockname())
        with Hold("pod-1", root) as armed:
            traces = traces_of(armed.pin_dir)
        killed_holder(world, "remove", kill)
        (found,) = Hold.find_all(root)
        found.remove()
        assert_in_order(receive_all(server), DATAGRAMS)
        traces.assert_gone()
        assert Hold.find_all(root) == []


def test_a_removal_delivers_what_is_held(world: tuple[Net, Path]) -> None:
    made, root = world
    with (
        Hold.create("pod-1", made.netns_path, made.addresses, root=root) as hold,
        made.pod_socket(socket.AF_INET6, socket.SOCK_DGRAM) as server,
        made.client_socket(socket.AF_INET6, socket.SOCK_DGRAM) as client,
    ):
        hold.arm()
        send_all(client, server.getsockname()[:2])
        hold.remove()
        assert_in_order(receive_all(server), DATAGRAMS)
        hold.remove()


def test_a_pod_that_is_gone_leaves_a_hold_that_can_be_removed(world: tuple[Net, Path]) -> None:
    made, root = world
    with Hold.create("pod-1", made.netns_path, made.addresses, root=root) as hold:
        hold.arm()
        traces = traces_of(hold.pin_dir)
        ip("link", "delete", made.pod_link)
        assert not hold.is_complete
        hold.remove()
    traces.assert_gone()


def tc(*arguments: str) -> str:
    done = subprocess.run(
        ["tc", *arguments], check=True, timeout=PATIENCE_S, stdout=subprocess.PIPE, text=True
    )
    return done.stdout


@pytest.mark.parametrize("others", ["none", "before", "after"])
def test_filters_of_others_stay_and_ours_go(world: tuple[Net, Path], others: str) -> None:
    """What is done where tcx is missing: a qdisc that all share."""
    made, root = world
    on_link = ("dev", made.pod_link)
    filter_of_others = ("egress", "prio", "99", "u32", "match", "u32", "0", "0", "flowid", "1:1")
    if others == "before":
        tc("qdisc", "add", *on_link, "clsact")
        tc("filter", "add", *on_link, *filter_of_others)
    with Hold.create("x", made.netns_path, made.addresses, root=root, clsact=True) as hold:
        assert "hold_to_pod" in tc("filter", "show", *on_link, "egress")
        assert "hold_from_pod" in tc("filter", "show", *on_link, "ingress")
        if others == "after":
            tc("filter", "add", *on_link, *filter_of_others)
        hold.remove()
    left = tc("filter", "show", *on_link, "egress") + tc("filter", "show", *on_link, "ingress")
    assert "hold_" not in left
    assert ("u32" in left) == (others != "none")
    assert ("clsact" in tc("qdisc", "show", *on_link)) == (others != "none")


def test_a_failed_creation_leaves_nothing(
    world: tuple[Net, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, root = world

    def fails(*_: object) -> None:
        raise OSError("no")

    with monkeypatch.context() as patch:
        patch.setattr("shim.network.hold.native.install", fails)
        with pytest.raises(OSError, match="no"):
            Hold.create("pod-1", made.netns_path, made.addresses, root=root)
    assert Hold.find_all(root) == []
    assert not plug.exists("pod-1")


def test_what_cannot_be_held_is_refused(world: tuple[Net, Path]) -> None:
    made, root = world
    with pytest.raises(InvalidInput, match="cannot name a hold"):
        Hold.create("../x", made.netns_path, made.addresses, root=root)
    with pytest.raises(InvalidInput, match="addresses"):
        Hold.create("x", made.netns_path, [], root=root)
    with pytest.raises(NotFound):
        Hold("absent", root)
    with pytest.raises(Refused, match="bears the pod's address"):
        Hold.create("x", made.netns_path, [ip_address("192.0.2.1")], root=root)
    with pytest.raises(Refused, match="no veth end"):
        Hold.create("x", made.netns_path, [ip_address("127.0.0.1")], root=root)
    with Hold.create("x", made.netns_path, made.addresses, root=root) as hold:
        with pytest.raises(Refused, match="exists"):
            Hold.create("x", made.netns_path, made.addresses, root=root)
        hold.remove()
    assert Hold.find_all(root) == []


def test_two_pods_of_one_node_are_held_apart(world: tuple[Net, Path]) -> None:
    made, root = world
    with (
        Hold.create("pod-1", made.netns_path, made.addresses, root=root) as first,
        Hold.create(
            "client",
            Path("/run/netns") / made.client_netns,
            [ip_address(made.client4)],
            root=root,
        ) as second,
        made.pod_socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
        made.client_socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        client.bind((made.client4, 0))
        first.arm()
        send_all(client, server.getsockname())
        until(lambda: first.counters.held_packets == DATAGRAMS, "all are held")
        assert second.counters.in_packets == 0
        assert [hold.hold_id for hold in Hold.find_all(root)] == ["client", "pod-1"]
        second.arm()
        first.release()
        assert_in_order(receive_all(server), DATAGRAMS)
        server.sendto(b"answer", client.getsockname())
        until(lambda: second.counters.held_packets == 1, "the answer is held")
        second.release()
        assert client.recv(100) == b"answer"
        first.remove()
        second.remove()
    assert list((root / "podferry" / "hold").iterdir()) == []
