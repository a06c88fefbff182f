# SPDX-License-Identifier: Apache-2.0
"""The addresses of sockets, against the kernel's own files."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from shim.network.in_use import local_addresses


def test_what_a_socket_is_bound_to_is_found() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind(("127.0.0.77", 0))
        assert "127.0.0.77" in local_addresses(os.getpid())
    assert "127.0.0.77" not in local_addresses(os.getpid())


def test_addresses_of_ipv6_are_read_word_by_word(tmp_path: Path) -> None:
    net = tmp_path / "7" / "net"
    net.mkdir(parents=True)
    head = "  sl  local_address remote_address st\n"
    (net / "tcp6").write_text(
        head
        + "   0: 000000FD000000000000000002000000:1F90 0:0 0A\n"
        + "   1: 0000000000000000FFFF00000200000A:1F90 0:0 01\n"
        + "   2: 00000000000000000000000000000000:1F90 0:0 0A\n"
    )
    assert local_addresses(7, tmp_path) == {"fd00::2", "10.0.0.2"}
