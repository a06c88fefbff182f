# SPDX-License-Identifier: Apache-2.0
"""A WebSocket server (RFC 6455): each text comes back behind the connection's count of texts.

websocket.py PORT
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import struct
import sys

MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
FINAL, MASKED = 0x80, 0x80
TEXT, CLOSE, PING, PONG = 1, 8, 9, 10
LENGTH_16, LENGTH_64 = 126, 127


def frame(opcode: int, payload: bytes) -> bytes:
    """A whole frame of a server, which does not mask."""
    size = len(payload)
    if size < LENGTH_16:
        head = struct.pack(">BB", FINAL | opcode, size)
    elif size < 1 << 16:
        head = struct.pack(">BBH", FINAL | opcode, LENGTH_16, size)
    else:
        head = struct.pack(">BBQ", FINAL | opcode, LENGTH_64, size)
    return head + payload


async def read_frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """The opcode and payload of a client's next frame.

    Raises:
        ValueError: it is in parts, or not masked, as every client's frame must be.
    """
    first, second = await reader.readexactly(2)
    if not (first & FINAL and second & MASKED):
        raise ValueError("a frame in parts, or one that is not masked")
    size = second & ~MASKED
    if size == LENGTH_16:
        (size,) = struct.unpack(">H", await reader.readexactly(2))
    elif size == LENGTH_64:
        (size,) = struct.unpack(">Q", await reader.readexactly(8))
    mask = await reader.readexactly(4)
    data = await reader.readexactly(size)
    key = mask * (size // 4 + 1)
    plain = int.from_bytes(data, "big") ^ int.from_bytes(key[:size], "big")
    return first & 0x0F, plain.to_bytes(size, "big")


async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The handshake."""
    asked = await reader.readuntil(b"\r\n\r\n")
    headers = {}
    for line in asked.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        headers[name.strip().lower()] = value.strip()
    accept = base64.b64encode(hashlib.sha1(headers[b"sec-websocket-key"] + MAGIC).digest())
    writer.write(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: %s\r\n\r\n" % accept
    )


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers one client until it closes."""
    count = 0
    try:
        await greet(reader, writer)
        while True:
            opcode, payload = await read_frame(reader)
            if opcode == TEXT:
                count += 1
                writer.write(frame(TEXT, b"%d %s" % (count, payload)))
            elif opcode == PING:
                writer.write(frame(PONG, payload))
            elif opcode == CLOSE:
                writer.write(frame(CLOSE, payload))
                await writer.drain()
                return
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass  # it has hung up without a word
    finally:
        writer.close()


async def main() -> None:
    """Serves for ever."""
    listener = await asyncio.start_server(serve, "0.0.0.0", int(sys.argv[1]))
    async with listener:
        await listener.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
