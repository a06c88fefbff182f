# SPDX-License-Identifier: Apache-2.0
"""What a dump would lose is seen, waited for, and told."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import pytest

from shim.errors import NotFound
from shim.network import quiesce
from shim.network.hold import Hold
from shim.network.quiesce import Left
from tests.bpf.hold_net import Net, until

pytestmark = pytest.mark.root

LONG_S = 20.0


def test_a_quiet_pod_has_nothing_to_wait_for(world: tuple[Net, Path]) -> None:
    left = quiesce.drain(world[0].netns_path, LONG_S)
    assert not left
    assert left.told() == ""


def test_an_accept_queue_is_waited_for_and_counted(world: tuple[Net, Path]) -> None:
    made, _ = world
    with (
        made.pod_socket(socket.AF_INET, socket.SOCK_STREAM) as listener,
        made.client_socket(socket.AF_INET, socket.SOCK_STREAM) as client,
    ):
        client.connect(listener.getsockname())
        assert quiesce.drain(made.netns_path, 0) == Left(unaccepted=1)
        taken: list[socket.socket] = []
        thread = threading.Thread(
            target=lambda: (time.sleep(0.05), taken.append(listener.accept()[0]))
        )
        thread.start()
        assert not quiesce.drain(made.netns_path, LONG_S)
        thread.join()
        taken[0].close()


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["v4", "v6"])
def test_unread_datagrams_are_waited_for(world: tuple[Net, Path], family: int) -> None:
    made, _ = world
    with (
        made.pod_socket(family, socket.SOCK_DGRAM) as server,
        made.client_socket(family, socket.SOCK_DGRAM) as client,
    ):
        client.sendto(b"x" * 100, server.getsockname()[:2])
        left = until(lambda: quiesce.drain(made.netns_path, 0), "the datagram is there")
        assert left.unread_bytes >= 100
        assert "not read" in left.told()
        server.recv(200)
        assert not quiesce.drain(made.netns_path, LONG_S)


def test_what_its_program_has_closed_is_told(world: tuple[Net, Path]) -> None:
    made, root = world
    with Hold.create("pod-1", made.netns_path, made.addresses, root=root) as hold:
        client, server = made.connection(socket.AF_INET)
        hold.arm()
        server.close()
        left = until(lambda: quiesce.drain(made.netns_path, 0), "the orphan is seen")
        assert left == Left(orphans=1)
        hold.remove()
        client.close()


def test_a_namespace_that_is_gone_is_said() -> None:
    with pytest.raises(NotFound):
        quiesce.drain(Path("/run/netns/there-is-none"), 0)
