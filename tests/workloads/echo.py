# SPDX-License-Identifier: Apache-2.0
"""An asyncio server: each line goes through a child's pipes and a thread before it is answered.

    echo.py PORT

A line is answered with ``<the line> <the connection's count> <digest of a block> <ticks>``.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys

BLOCK_BYTES = 4 << 20
TICK_S = 0.01


class Server:
    """What must survive: connections, a block of memory, a child with pipes, a timer."""

    def __init__(self, child: asyncio.subprocess.Process) -> None:
        self.child = child
        self.turn = asyncio.Lock()
        self.block = os.urandom(BLOCK_BYTES)
        self.ticks = 0

    def tick(self) -> None:
        """A timer that makes itself again."""
        self.ticks += 1
        asyncio.get_running_loop().call_later(TICK_S, self.tick)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers one client until it hangs up."""
        assert self.child.stdin is not None and self.child.stdout is not None
        count = 0
        while line := await reader.readline():
            count += 1
            async with self.turn:
                self.child.stdin.write(line)
                back = await self.child.stdout.readline()
            digest = await asyncio.to_thread(lambda: hashlib.sha256(self.block).hexdigest()[:16])
            writer.write(f"{back.decode().strip()} {count} {digest} {self.ticks}\n".encode())
            await writer.drain()
        writer.close()


async def main() -> None:
    """Serves for ever."""
    pipe = asyncio.subprocess.PIPE
    server = Server(await asyncio.create_subprocess_exec("cat", stdin=pipe, stdout=pipe))
    server.tick()
    listener = await asyncio.start_server(server.serve, "0.0.0.0", int(sys.argv[1]))
    async with listener:
        await listener.serve_forever()


asyncio.run(main())
