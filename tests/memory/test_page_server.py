# SPDX-License-Identifier: Apache-2.0
"""CRIU's page-server protocol, spoken byte by byte in both of its headers' sizes."""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
from collections.abc import Callable

import pytest

from shim.errors import NativeError
from tests.memory.conftest import Ends
from tests.memory.fix_stream import PAGE, pagemap

ADD, HOLE, OPEN2, PARENT, ADD_F, CLOSE, FORCE_CLOSE = 1, 2, 4, 5, 6, 0x1023, 0x1024
PID, SHMEM = 1, 2
IN_PARENT, LAZY, PRESENT = 1, 2, 4
ANSWER_S = 10.0


class Criu:
    """CRIU's side of the connection."""

    def __init__(self, connection: socket.socket, wide: bool) -> None:
        self.connection = connection
        self.connection.settimeout(ANSWER_S)
        self._header = struct.Struct("=I4xQQQ" if wide else "=IIQQ")

    def send(self, command: int, pages: int = 0, vaddr: int = 0, target: int = 0) -> None:
        self.connection.sendall(self._header.pack(command, pages, vaddr, target))

    def open(self, kind: int, number: int) -> int:
        """Opens an image file pair and gives its name in later messages."""
        target = number << 8 | kind
        self.send(OPEN2, target=target)
        assert self.connection.recv(1) == b"\0"
        return target

    def add(self, target: int, vaddr: int, content: bytes, flags: int = PRESENT) -> None:
        self.send(flags << 16 | ADD_F, len(content) // PAGE, vaddr, target)
        self.connection.sendall(content)

    def close(self, command: int = FORCE_CLOSE) -> None:
        self.send(command)
        assert self.connection.recv(4) == bytes(4)


def serve(ends: Ends, speak: Callable[[Criu], None], *, wide: bool) -> int:
    """Lets ``speak`` be CRIU; returns what was sent, or raises what the server raises."""
    ours, theirs = socket.socketpair()
    result: list[int | NativeError] = []
    with ends.connect() as sender, ours, theirs:

        def run() -> None:
            try:
                result.append(sender.serve_page_server(ours.fileno()))
            except NativeError as error:
                result.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        speak(Criu(theirs, wide))
        theirs.close()
        thread.join(ANSWER_S)
        if isinstance(result[0], NativeError):
            raise result[0]
        sender.flush()
        return result[0]


@pytest.mark.parametrize("wide", [False, True], ids=["24-bytes", "32-bytes"])
def test_the_image_files_are_as_criu_writes_them(ends: Ends, wide: bool) -> None:
    contents = [os.urandom(PAGE), os.urandom(200 * PAGE), os.urandom(3 * PAGE)]

    def speak(criu: Criu) -> None:
        criu.send(PARENT, target=9 << 8 | PID)
        assert criu.connection.recv(4) == bytes(4)
        first = criu.open(PID, 9)
        criu.add(first, 0x10000, contents[0])
        criu.send(LAZY << 16 | ADD_F, 50, 0x20000, first)
        criu.add(first, 0x7F0000000000, contents[1])
        second = criu.open(SHMEM, 77)
        criu.add(second, 0, contents[2])
        criu.open(PID, 10)
        criu.close(FORCE_CLOSE if wide else CLOSE)

    total = serve(ends, speak, wide=wide)
    files = {path.name: path.read_bytes() for path in ends.store.images.iterdir()}
    assert total == sum(map(len, files.values()))
    assert files == {
        "pagemap-9.img": pagemap(
            [(0x10000, 1, PRESENT), (0x20000, 50, LAZY), (0x7F0000000000, 200, PRESENT)], 1
        ),
        "pages-1.img": contents[0] + contents[1],
        "pagemap-shmem-77.img": pagemap([(0, 3, PRESENT)], 2),
        "pages-2.img": contents[2],
        "pagemap-10.img": pagemap([], 3),
        "pages-3.img": b"",
    }


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize(
    ("command", "pages", "vaddr"),
    [
        (HOLE, 1, 0x1000),
        (IN_PARENT << 16 | ADD_F, 1, 0x1000),
        (PRESENT << 16 | ADD_F, 0, 0x1000),
        (PRESENT << 16 | ADD_F, 1, 0x1001),
        (99, 0, 0),
    ],
)
def test_what_criu_never_says_is_refused(
    ends: Ends, wide: bool, command: int, pages: int, vaddr: int
) -> None:
    def speak(criu: Criu) -> None:
        target = criu.open(PID, 9)
        criu.send(command, pages, vaddr, target)

    with pytest.raises(NativeError) as caught:
        serve(ends, speak, wide=wide)
    assert caught.value.errno_value == errno.EPROTO


@pytest.mark.parametrize("cut", [1, 24, 31, 40])
def test_a_criu_that_dies_is_noticed(ends: Ends, cut: int) -> None:
    def speak(criu: Criu) -> None:
        target = criu.open(PID, 9)
        message = struct.pack("=I4xQQQ", PRESENT << 16 | ADD_F, 4, 0x1000, target) + bytes(PAGE)
        criu.connection.sendall(message[:cut])

    with pytest.raises(NativeError) as caught:
        serve(ends, speak, wide=True)
    assert caught.value.errno_value == errno.ECONNRESET
