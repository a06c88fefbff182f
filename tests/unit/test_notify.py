# SPDX-License-Identifier: Apache-2.0
"""What systemd is told, over a real datagram socket, and that a deaf one stops nothing."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from shim.server.notify import notify, watchdog_interval_s


@pytest.fixture
def systemd(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A socket such as systemd names in NOTIFY_SOCKET."""
    directory = Path(tempfile.mkdtemp(prefix="pf-"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(directory / "notify"))
        listening.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(directory / "notify"))
        yield listening
    shutil.rmtree(directory)


def test_assignments_come_in_one_datagram(systemd: socket.socket) -> None:
    notify("MAINPID=7", "READY=1", "STATUS=serving")
    assert systemd.recv(4096) == b"MAINPID=7\nREADY=1\nSTATUS=serving"


def test_an_abstract_address_is_written_with_an_at_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"podferry-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("\0" + name)
        listening.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + name)
        notify("WATCHDOG=1")
        assert listening.recv(4096) == b"WATCHDOG=1"


def test_without_systemd_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")


def test_a_socket_that_is_gone_stops_nothing(
    systemd: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", os.environ["NOTIFY_SOCKET"] + ".gone")
    notify("READY=1")


def test_a_systemd_that_does_not_read_stops_nothing(systemd: socket.socket) -> None:
    """Its queue has room for few datagrams; a watchdog ping must not wait in our event loop."""
    depth = int(Path("/proc/sys/net/unix/max_dgram_qlen").read_text())
    for _ in range(depth + 5):
        notify("WATCHDOG=1", patience_s=0.0)
    notify("STOPPING=1", patience_s=0.001)
    assert systemd.recv(4096) == b"WATCHDOG=1"


@pytest.mark.parametrize(
    ("value", "interval_s"),
    [
        ("30000000", 15.0),
        ("1", 0.0000005),
        ("0", None),
        ("-5", None),
        ("", None),
        ("soon", None),
        (None, None),
    ],
)
def test_the_watchdog_is_fed_twice_in_its_time(
    monkeypatch: pytest.MonkeyPatch, value: str | None, interval_s: float | None
) -> None:
    if value is None:
        monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    else:
        monkeypatch.setenv("WATCHDOG_USEC", value)
    assert watchdog_interval_s() == interval_s
