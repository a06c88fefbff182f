# SPDX-License-Identifier: Apache-2.0
"""A workload with a memory: counts the lines that clients send it, and owns a block of bytes.

    workload.py [PORT [MEBIBYTES]]

Each line is answered with
``<count> <pid> <digest of the block> <longest pause in ms> <the client's address>``.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
import time

TICK_S = 0.005


class Workload:
    """What must survive a move: a counter, a block of memory, and the clock's longest gap."""

    def __init__(self, mebibytes: int) -> None:
        self.count = 0
        self.block = bytearray(os.urandom(1 << 20) * mebibytes)
        self.longest_pause_s = 0.0

    async def watch_clock(self) -> None:
        """Notes the longest time that this process did not run."""
        last = time.monotonic()
        while True:
            await asyncio.sleep(TICK_S)
            now = time.monotonic()
            self.longest_pause_s = max(self.longest_pause_s, now - last - TICK_S)
            last = now

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers one client until it hangs up."""
        peer = writer.get_extra_info("peername")[0]
        while await reader.readline():
            self.count += 1
            digest = hashlib.sha256(self.block).hexdigest()[:16]
            pause_ms = self.longest_pause_s * 1000
            writer.write(f"{self.count} {os.getpid()} {digest} {pause_ms:.1f} {peer}\n".encode())
            await writer.drain()
        writer.close()


async def main() -> None:
    """Serves for ever."""
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 7000
    mebibytes = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    workload = Workload(mebibytes)
    server = await asyncio.start_server(workload.serve, "0.0.0.0", port)
    async with server:
        await asyncio.gather(server.serve_forever(), workload.watch_clock())


asyncio.run(main())
