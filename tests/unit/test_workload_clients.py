# SPDX-License-Identifier: Apache-2.0
"""The clients of the workloads that move only, against servers on the loopback, without a node."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.workloads import crowd, websocket
from tests.workloads.client import WrongAnswer
from tests.workloads.crowd import Crowd
from tests.workloads.frames import TEXT, Frames

REQUESTS = 7


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def served(talk: Callable[[int], None], serve: Serve = websocket.serve) -> None:
    """Runs a client in a thread against a server on the loopback."""

    async def both() -> None:
        listener = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with listener, asyncio.timeout(30):
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


def test_it_runs_where_only_its_own_files_are(tmp_path: Path) -> None:
    here = Path(websocket.__file__).parent
    for name in ("client.py", "frames.py"):
        shutil.copy(here / name, tmp_path)

    def talk(port: int) -> None:
        argv = [sys.executable, str(tmp_path / "frames.py"), "websocket", "127.0.0.1", str(port)]
        done = subprocess.run(
            argv, input="ask 3\nfresh\nfinish\n", capture_output=True, text=True, check=True,
            cwd=tmp_path, env={}, timeout=20,
        )  # fmt: skip
        *_, felt = [json.loads(line) for line in done.stdout.splitlines()]
        assert (felt["asked"], felt["wrong"], felt["resets"], felt["lost"]) == (3, 0, 0, 0), felt

    served(talk)


class Store:
    """What memcached does with the two commands that the crowd uses."""

    def __init__(self) -> None:
        self.kept: dict[bytes, bytes] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers one client until it hangs up."""
        while line := await reader.readline():
            what, key, *rest = line.split()
            if what == b"set":
                self.kept[key] = (await reader.readexactly(int(rest[-1]) + 2))[:-2]
                writer.write(b"STORED\r\n")
                continue
            if key in self.kept:
                value = self.kept[key]
                writer.write(b"VALUE %s 0 %d\r\n%s\r\n" % (key, len(value), value))
            writer.write(b"END\r\n")
        writer.close()


def test_a_crowd_has_a_key_for_each_and_notices_one_that_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(crowd, "CONNECTIONS", 5)
    store = Store()

    def talk(port: int) -> None:
        line = Crowd("127.0.0.1", port)
        for _ in range(REQUESTS):
            line.ask()
        assert len(store.kept) == 5
        assert line.retransmits() == 0
        store.kept.pop(line.members[3].key)
        with pytest.raises(WrongAnswer):
            line.ask()
        line.close()

    served(talk, store.serve)
