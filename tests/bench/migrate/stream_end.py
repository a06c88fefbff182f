# SPDX-License-Identifier: Apache-2.0
"""One end of a page stream as a process of its own, for the benchmark of transfers.

    stream_end receive DIRECTORY ADDRESS CERTIFICATES TOKEN QUOTA
    stream_end send ADDRESS PORT CERTIFICATES TOKEN LANES MEBIBYTES

Speaks JSON, one object a line; each line on stdin asks for one more. The sender's memory belongs to
a child, whose every page is changed before each transfer.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

from shim.memory.stream import Receiver, Sender, TlsFiles, pack_runs

IMAGE_PID = 1
PIECE = 1 << 20


def tls(certificates: str, name: str) -> TlsFiles:
    """As tests.memory.fix_stream writes them."""
    stem = Path(certificates) / f"authority-{name}"
    return TlsFiles(
        stem.with_suffix(".crt"), stem.with_suffix(".key"), Path(certificates) / "authority.pem"
    )


def say(**values: Any) -> None:
    """One line."""
    print(json.dumps(values), flush=True)


def cpu_s() -> float:
    """This process's, all threads'."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def receive(directory: str, address: str, certificates: str, token: str, quota: str) -> None:
    """Receives until stdin ends; tells its processor time."""
    receiver = Receiver()
    port = receiver.start(address, 0, tls(certificates, "target"))
    store = receiver.expect(bytes.fromhex(token), Path(directory), int(quota))
    say(port=port)
    for _ in sys.stdin:
        say(cpu_s=cpu_s())
    receiver.close()
    store.remove()


def owner(mebibytes: int) -> tuple[int, int, int, int]:
    """A child with random memory: its pid, the address, the pipes that ask and tell of a change."""
    block = mmap.mmap(-1, mebibytes << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for _ in range(mebibytes):
        block.write(os.urandom(PIECE))
    address = ctypes.addressof(ctypes.c_char.from_buffer(block))
    asked, ask = os.pipe()
    done, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(ask)
        count = len(block) // mmap.PAGESIZE
        number = 0
        while os.read(asked, 1):
            number += 1
            # Its own copy of every page from now on, and another content each time.
            block[:: mmap.PAGESIZE] = bytes([number % 256]) * count
            os.write(tell, b"x")
        os._exit(0)
    os.close(asked)
    os.close(tell)
    return pid, address, ask, done


def send(address: str, port: str, certificates: str, token: str, lanes: str, size: str) -> None:
    """Sends all memory once for each line on stdin."""
    mebibytes = int(size)
    pid, start, ask, done = owner(mebibytes)
    runs = pack_runs([(start, (mebibytes << 20) // mmap.PAGESIZE)])
    sender = Sender.connect(
        address,
        int(port),
        tls(certificates, "source"),
        bytes.fromhex(token),
        peer_name="target",
        lanes=int(lanes),
    )
    say(pid=pid)
    try:
        for _ in sys.stdin:
            os.write(ask, b"x")
            os.read(done, 1)
            before, begun = cpu_s(), time.monotonic()
            sender.send_runs(pid, IMAGE_PID, runs)
            counts = sender.flush()
            took = time.monotonic() - begun
            assert counts.pages == (mebibytes << 20) // mmap.PAGESIZE
            say(took_s=took, cpu_s=cpu_s() - before)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        sender.close()


if __name__ == "__main__":
    {"receive": receive, "send": send}[sys.argv[1]](*sys.argv[2:])
