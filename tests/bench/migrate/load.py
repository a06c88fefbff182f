# SPDX-License-Identifier: Apache-2.0
"""Loads a redis over the network and notes what its users feel; runs on a node of its own.

    load.py ADDRESS PORT IDLE

One connection asks all the time, one request after the other; IDLE connections say nothing; new
connections are opened every 20 ms. Commands come on stdin, one a line, each is answered by one JSON
object: `begin`, `end` (what was felt since), `timeline` (the same, and the longest answer of each
20 ms), `check` (every idle connection asks once), `quit`.
It uses the standard library only.
"""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

DEADLINE_S = 20.0
FRESH_EVERY_S = 0.02
BUCKET_S = 0.02


class Connection:
    """One connection to the redis, with a counter of its own."""

    def __init__(self, address: str, port: int, name: str) -> None:
        self.socket = socket.create_connection((address, port), DEADLINE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        key = f"load:{name}".encode()
        self.request = b"*2\r\n$4\r\nINCR\r\n$%d\r\n%s\r\n" % (len(key), key)
        self.count = 0

    def ask(self) -> None:
        """Counts on; the answer must be the next number."""
        self.count += 1
        self.socket.sendall(self.request)
        answer = b""
        while not answer.endswith(b"\r\n"):
            got = self.socket.recv(256)
            if not got:
                raise ConnectionResetError("hung up")
            answer += got
        if answer != b":%d\r\n" % self.count:
            raise ValueError(f"{answer!r} for {self.count}")


class Load:
    """All connections, and what they feel."""

    def __init__(self, address: str, port: int, idle: int) -> None:
        self.where = (address, port)
        self.run = str(time.monotonic_ns())
        self.busy = Connection(address, port, f"{self.run}:busy")
        self.idle = [Connection(address, port, f"{self.run}:{n}") for n in range(idle)]
        self.lock = threading.Lock()
        self.fresh_number = self.dials = 0
        self.errors: list[str] = []
        self.resets = self.wrong = 0
        self.reset_figures()

    def reset_figures(self) -> None:
        """Begins anew."""
        with self.lock:
            self.asked = 0
            self.longest_s = 0.0
            self.answered_s = time.monotonic()
            self.buckets: dict[int, list[float]] = {}
            self.fresh: list[float] = []
            self.begun_s = time.monotonic()
            self.timeouts = timeouts()

    def keep_asking(self) -> None:
        """The busy connection."""
        while True:
            try:
                self.busy.ask()
            except (OSError, ValueError) as error:
                self.failed(error)
                self.dial_again()
                continue
            now = time.monotonic()
            with self.lock:
                self.asked += 1
                waited_s, self.answered_s = now - self.answered_s, now
                self.longest_s = max(self.longest_s, waited_s)
                seen = self.buckets.setdefault(int((now - self.begun_s) / BUCKET_S), [0, 0])
                seen[0] += 1
                seen[1] = max(seen[1], waited_s * 1e3)

    def dial_again(self) -> None:
        """As a user would whose connection is lost; the wait goes on until the next answer."""
        while True:
            time.sleep(FRESH_EVERY_S)
            self.dials += 1
            with contextlib.suppress(OSError):
                self.busy = Connection(*self.where, f"{self.run}:busy:{self.dials}")
                return

    def keep_dialling(self) -> None:
        """New connections, each of which asks once."""
        while True:
            time.sleep(FRESH_EVERY_S)
            began = time.monotonic()
            try:
                self.fresh_number += 1
                made = Connection(*self.where, f"{self.run}:fresh:{self.fresh_number}")
                made.ask()
                made.socket.close()
            except (OSError, ValueError) as error:
                self.failed(error)
                continue
            with self.lock:
                self.fresh.append((time.monotonic() - began) * 1e3)

    def failed(self, error: Exception) -> None:
        """Notes a failure."""
        with self.lock:
            self.errors.append(f"{type(error).__name__}: {error}")
            if isinstance(error, OSError):
                self.resets += 1
            else:
                self.wrong += 1

    def check(self) -> None:
        """Every idle connection asks once."""
        for one in self.idle:
            try:
                one.ask()
            except (OSError, ValueError) as error:
                self.failed(error)

    def timeline(self) -> dict[str, Any]:
        """The same, with answers and the longest of them for each bucket."""
        figures = self.figures()
        with self.lock:
            figures["timeline"] = [
                [round(number * BUCKET_S, 3), count, round(longest, 3)]
                for number, (count, longest) in sorted(self.buckets.items())
            ]
        return figures

    def figures(self) -> dict[str, Any]:
        """What was felt since the beginning."""
        with self.lock:
            now = time.monotonic()
            took_s = now - self.begun_s
            # An answer that is still waited for counts too.
            longest_s = max(self.longest_s, now - self.answered_s)
            return {
                "asked": self.asked,
                "since_s": took_s,
                "per_s": self.asked / took_s,
                "longest_ms": longest_s * 1e3,
                "fresh_ms": list(self.fresh),
                "tcp_timeouts": timeouts() - self.timeouts,
                "resets": self.resets,
                "wrong": self.wrong,
                "errors": self.errors[:5],
            }


def timeouts() -> int:
    """TcpExtTCPTimeouts of this network namespace (/proc/net/netstat)."""
    lines = Path("/proc/net/netstat").read_text("ascii").splitlines()
    for names, values in zip(lines[::2], lines[1::2], strict=True):
        if names.startswith("TcpExt:"):
            return int(dict(zip(names.split(), values.split(), strict=True))["TCPTimeouts"])
    return 0


def main() -> None:
    """Command line."""
    load = Load(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
    for work in (load.keep_asking, load.keep_dialling):
        threading.Thread(target=work, daemon=True).start()
    print("{}", flush=True)
    for line in sys.stdin:
        word = line.strip()
        if word == "quit":
            break
        if word == "begin":
            load.reset_figures()
        elif word == "check":
            load.check()
        answer = load.timeline() if word == "timeline" else load.figures()
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
