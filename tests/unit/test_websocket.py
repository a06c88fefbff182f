# SPDX-License-Identifier: Apache-2.0
"""The WebSocket workload and its client speak RFC 6455 to each other, without a node."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tests.workloads import websocket
from tests.workloads.client import WrongAnswer
from tests.workloads.frames import TEXT, Frames

REQUESTS = 7


def served(talk: Callable[[int], None]) -> None:
    """Runs a client in a thread against the server on the loopback."""

    async def both() -> None:
        listener = await asyncio.start_server(websocket.serve, "127.0.0.1", 0)
        async with listener:
            async with asyncio.timeout(30):
                await asyncio.to_thread(talk, listener.sockets[0].getsockname()[1])

    asyncio.run(both())


def test_texts_of_every_length_come_back_counted() -> None:
    def talk(port: int) -> None:
        line = Frames("127.0.0.1", port)
        for _ in range(REQUESTS):
            line.ask()
        line.finish()
        with pytest.raises(ConnectionResetError):
            line.read(TEXT)
        line.close()

    served(talk)


def test_a_text_that_is_lost_is_noticed() -> None:
    def talk(port: int) -> None:
        line = Frames("127.0.0.1", port)
        line.ask()
        line.count += 1
        with pytest.raises(WrongAnswer):
            line.ask()
        line.close()

    served(talk)


def test_the_handshake_is_that_of_the_rfc() -> None:
    async def both() -> bytes:
        listener = await asyncio.start_server(websocket.serve, "127.0.0.1", 0)
        async with listener, asyncio.timeout(30):
            port = listener.sockets[0].getsockname()[1]
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            # The key and its answer are the example of RFC 6455, section 1.3.
            writer.write(b"GET / HTTP/1.1\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
            said = await reader.readuntil(b"\r\n\r\n")
            writer.close()
            return said

    assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in asyncio.run(both())
