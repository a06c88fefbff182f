# SPDX-License-Identifier: Apache-2.0
"""The client on a WebSocket (RFC 6455): numbered texts, all over one connection.

    frames.py websocket ADDRESS PORT

It is told what to do as client.py is, which lies beside it on a node.
"""

from __future__ import annotations

import base64
import hashlib
import os
import struct

try:
    from tests.workloads.client import KINDS, Line, WrongAnswer, main
except ImportError:  # on a node
    from client import (  # type: ignore[import-not-found, no-redef]
        KINDS,
        Line,
        WrongAnswer,
        main,
    )

MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
FINAL, MASKED = 0x80, 0x80
TEXT, CLOSE, PING, PONG = 1, 8, 9, 10
LENGTH_16, LENGTH_64 = 126, 127
GOING_AWAY = struct.pack(">H", 1001)
# Each of the three ways in which a frame says its length.
PADDING = (b"", b"." * 300, b"." * 70000)


class Frames(Line):
    """websocket.py: it echoes the text and has counted as many of this connection as we."""

    def __init__(self, address: str, port: int) -> None:
        super().__init__(address, port)
        key = base64.b64encode(os.urandom(16))
        self.socket.sendall(
            b"GET / HTTP/1.1\r\nHost: pod\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: %s\r\nSec-WebSocket-Version: 13\r\n\r\n" % key
        )
        status, headers = self.read_line(), {}
        while line := self.read_line():
            name, _, value = line.partition(b":")
            headers[name.strip().lower()] = value.strip()
        wanted = base64.b64encode(hashlib.sha1(key + MAGIC).digest())
        if b" 101 " not in status or headers.get(b"sec-websocket-accept") != wanted:
            raise WrongAnswer(f"no handshake: {status!r}")

    def send(self, opcode: int, payload: bytes) -> None:
        """A whole frame, masked."""
        size = len(payload)
        if size < LENGTH_16:
            head = struct.pack(">BB", FINAL | opcode, MASKED | size)
        elif size < 1 << 16:
            head = struct.pack(">BBH", FINAL | opcode, MASKED | LENGTH_16, size)
        else:
            head = struct.pack(">BBQ", FINAL | opcode, MASKED | LENGTH_64, size)
        mask = os.urandom(4)
        key = (mask * (size // 4 + 1))[:size]
        hidden = int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")
        self.socket.sendall(head + mask + hidden.to_bytes(size, "big"))

    def read(self, wanted: int) -> bytes:
        """The payload of the next frame, which must be of that kind."""
        first, second = self.read_exactly(2)
        if first != FINAL | wanted or second & MASKED:
            raise WrongAnswer(f"a frame that begins with {first:#x} {second:#x}")
        size = second
        if size == LENGTH_16:
            (size,) = struct.unpack(">H", self.read_exactly(2))
        elif size == LENGTH_64:
            (size,) = struct.unpack(">Q", self.read_exactly(8))
        return self.read_exactly(size)

    def ask(self) -> None:
        """A text, and a ping."""
        self.count += 1
        text = b"%d" % self.count + PADDING[self.count % len(PADDING)]
        self.send(TEXT, text)
        answer = self.read(TEXT)
        if answer != b"%d %s" % (self.count, text):
            raise WrongAnswer(f"{answer[:40]!r} for text {self.count}")
        self.send(PING, b"%d" % self.count)
        if self.read(PONG) != b"%d" % self.count:
            raise WrongAnswer("another pong than this ping's")

    def finish(self) -> None:
        """The closing handshake."""
        self.send(CLOSE, GOING_AWAY)
        if self.read(CLOSE) != GOING_AWAY:
            raise WrongAnswer("it closes for another reason")


if __name__ == "__main__":
    KINDS["websocket"] = Frames
    main()
