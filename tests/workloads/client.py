# SPDX-License-Identifier: Apache-2.0
"""A client on a node: asks a workload over kept connections and counts what its user would feel.

    client.py KIND ADDRESS PORT

Commands come on stdin, one per line; each is answered with one JSON object on one line:

    ask [N]      N requests, one after the other; their milliseconds
    start MS     goes on asking in the background, so many milliseconds apart
    stop         ends that
    fresh        one request on a connection of its own, opened for it
    report       the totals
    finish       what only the end can show (a commit), then the totals

It knows the protocols and nothing of sleep: a wrong answer, a reset, a lost datagram is one.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

ANSWER_DEADLINE_S = 15.0
CONNECT_DEADLINE_S = 30.0
TOTAL_RETRANS_OFFSET = 100
"""tcpi_total_retrans in struct tcp_info of linux/tcp.h."""


class WrongAnswer(Exception):
    """The answer is not the right one."""


class Line:
    """A line goes and one comes back; the base of what speaks TCP."""

    def __init__(self, address: str, port: int) -> None:
        self.address, self.port = address, port
        self.count = 0
        self.said: dict[str, Any] = {}
        self.buffer = b""
        self.socket = self.dial()

    def dial(self) -> socket.socket:
        """Connects; waits for a server that does not listen yet."""
        until = time.monotonic() + CONNECT_DEADLINE_S
        while True:
            try:
                made = socket.create_connection((self.address, self.port), ANSWER_DEADLINE_S)
            except ConnectionRefusedError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.02)
            else:
                made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return made

    def read_line(self) -> bytes:
        """The next line without its end."""
        while b"\n" not in self.buffer:
            self.buffer += self._more()
        line, _, self.buffer = self.buffer.partition(b"\n")
        return line.rstrip(b"\r")

    def read_exactly(self, size: int) -> bytes:
        """So many bytes."""
        while len(self.buffer) < size:
            self.buffer += self._more()
        taken, self.buffer = self.buffer[:size], self.buffer[size:]
        return taken

    def _more(self) -> bytes:
        got = self.socket.recv(65536)
        if not got:
            raise ConnectionResetError("the server has hung up")
        return got

    def ask(self) -> None:
        """One request.

        Raises:
            WrongAnswer: its answer is wrong.
        """
        self.count += 1
        self.socket.sendall(b"%d\n" % self.count)
        words = self.read_line().decode().split()
        if not words or words[0] != str(self.count):
            raise WrongAnswer(f"{words} for {self.count}")
        self.judge(words[1:])

    def judge(self, words: list[str]) -> None:
        """Judges the rest of an answer."""

    def finish(self) -> None:
        """What only the end can show."""

    def retransmits(self) -> int:
        """Segments that this side has sent more than once."""
        size = TOTAL_RETRANS_OFFSET + 4
        info = self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, size)
        return int(struct.unpack_from("=I", info, TOTAL_RETRANS_OFFSET)[0])

    def close(self) -> None:
        """Hangs up."""
        self.socket.close()


class Busy(Line):
    """busy.c, which says of itself whether all is well."""

    def judge(self, words: list[str]) -> None:
        """Its own errors are wrong answers; its counters only grow."""
        before, self.said = self.said, dict(word.split("=", 1) for word in words)
        if self.said["errors"] != "0":
            raise WrongAnswer(f"it found {self.said['errors']} errors, first {self.said['first']}")
        for key in ("rounds", "timer", "signals"):
            if int(self.said[key]) < int(before.get(key, 0)):
                raise WrongAnswer(f"{key} fell from {before[key]} to {self.said[key]}")


class Echo(Line):
    """echo.py: its count of this connection is ours, its memory stays, its timer goes on."""

    def judge(self, words: list[str]) -> None:
        """Each of the three."""
        count, digest, ticks = int(words[0]), words[1], int(words[2])
        if count != self.count:
            raise WrongAnswer(f"it counts {count}, we {self.count}")
        if digest != self.said.get("digest", digest):
            raise WrongAnswer("its memory has changed")
        if ticks < self.said.get("ticks", 0):
            raise WrongAnswer("its timer went back")
        self.said = {"digest": digest, "ticks": ticks}


class Redis(Line):
    """redis-server: a counter, and a value of some size; keys of this connection's own."""

    def __init__(self, address: str, port: int) -> None:
        super().__init__(address, port)
        self.key = b"podferry:%d" % time.monotonic_ns()

    def call(self, *words: bytes) -> bytes:
        """One command; the reply's first line or its bulk."""
        sent = b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words)
        self.socket.sendall(sent)
        line = self.read_line()
        if line.startswith(b"-"):
            raise WrongAnswer(line.decode())
        if line.startswith(b"$") and line != b"$-1":
            return self.read_exactly(int(line[1:]) + 2)[:-2]
        return line

    def ask(self) -> None:
        """Counts on, and reads back what was written the last time."""
        self.count += 1
        if self.count > 1:
            want = b"%d" % (self.count - 1) * 100
            if self.call(b"GET", self.key + b":value") != want:
                raise WrongAnswer(f"the value of round {self.count - 1}")
        if self.call(b"INCR", self.key) != b":%d" % self.count:
            raise WrongAnswer(f"INCR {self.count}")
        self.call(b"SET", self.key + b":value", b"%d" % self.count * 100)


class Counter(Redis):
    """redis-server with one command per request, for what is timed."""

    def ask(self) -> None:
        """Counts on."""
        self.count += 1
        if self.call(b"INCR", self.key) != b":%d" % self.count:
            raise WrongAnswer(f"INCR {self.count}")


class Http(Line):
    """nginx over one kept connection."""

    PAGE = b"podferry test page\n"

    def ask(self) -> None:
        """GET /."""
        self.socket.sendall(b"GET / HTTP/1.1\r\nHost: pod\r\n\r\n")
        if self.read_line() != b"HTTP/1.1 200 OK":
            raise WrongAnswer("not 200")
        headers = {}
        while line := self.read_line():
            name, _, value = line.partition(b":")
            headers[name.lower()] = value.strip()
        if self.read_exactly(int(headers[b"content-length"])) != self.PAGE:
            raise WrongAnswer("another page")
        if headers.get(b"connection") == b"close":  # nginx says so after 1000 requests
            self.socket.close()
            self.socket = self.dial()


class Postgres(Line):
    """postgres, one transaction open from the first request to the last (protocol 3.0)."""

    def __init__(self, address: str, port: int) -> None:
        super().__init__(address, port)
        self.begin("postgres")
        self.prepare()

    def prepare(self) -> None:
        """Opens the transaction."""
        self.query("CREATE TABLE IF NOT EXISTS kept (n integer)")
        self.query("BEGIN")

    def begin(self, user: str) -> None:
        """The start-up message; trust authentication."""
        until = time.monotonic() + CONNECT_DEADLINE_S
        while True:
            body = struct.pack(">i", 3 << 16) + f"user\0{user}\0database\0{user}\0\0".encode()
            self.socket.sendall(struct.pack(">i", len(body) + 4) + body)
            try:
                self.until_ready()
                return
            except (WrongAnswer, ConnectionResetError):  # "the database system is starting up"
                if time.monotonic() > until:
                    raise
                self.socket.close()
                time.sleep(0.1)
                self.buffer = b""
                self.socket = self.dial()

    def until_ready(self) -> list[str]:
        """Reads up to ReadyForQuery; the first column of each row."""
        rows, refused = [], ""
        while True:
            kind, size = struct.unpack(">ci", self.read_exactly(5))
            body = self.read_exactly(size - 4)
            if kind == b"E":
                refused = body.replace(b"\0", b" ").decode()
                if b"FATAL" in body:
                    raise WrongAnswer(refused)
            elif kind == b"D":
                (length,) = struct.unpack_from(">i", body, 2)
                rows.append(body[6 : 6 + length].decode())
            elif kind == b"Z":
                if refused:
                    raise WrongAnswer(refused)
                return rows

    def query(self, text: str) -> list[str]:
        """One simple query."""
        body = text.encode() + b"\0"
        self.socket.sendall(b"Q" + struct.pack(">i", len(body) + 4) + body)
        return self.until_ready()

    def ask(self) -> None:
        """A row more; all rows of the open transaction must be there."""
        self.count += 1
        self.query(f"INSERT INTO kept VALUES ({self.count})")
        if self.query("SELECT count(*) FROM kept") != [str(self.count)]:
            raise WrongAnswer("rows of the open transaction are lost")

    def finish(self) -> None:
        """Commits; another connection must see every row then, and none before."""
        other = Reader(self.address, self.port)
        if other.query("SELECT count(*) FROM kept") != ["0"]:
            raise WrongAnswer("rows are seen before the commit")
        self.query("COMMIT")
        if other.query("SELECT sum(n) FROM kept") != [str(self.count * (self.count + 1) // 2)]:
            raise WrongAnswer("rows are lost after the commit")
        other.close()


class Reader(Postgres):
    """Another connection, without a transaction."""

    def prepare(self) -> None:
        """Nothing."""


class Datagrams(Line):
    """datagrams.py: a datagram that does not come back in time is lost."""

    def __init__(self, address: str, port: int) -> None:
        self.served = 0
        super().__init__(address, port)

    def dial(self) -> socket.socket:
        """A connected UDP socket, once the server answers."""
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.connect((self.address, self.port))
        made.settimeout(0.1)
        until = time.monotonic() + CONNECT_DEADLINE_S
        while True:
            try:
                made.send(b"hello")
                self.served = int(made.recv(100).split()[1])
                break
            except (ConnectionRefusedError, TimeoutError):
                if time.monotonic() > until:
                    raise
        made.settimeout(ANSWER_DEADLINE_S)
        return made

    def ask(self) -> None:
        """One datagram there and back."""
        self.count += 1
        self.socket.send(b"%d" % self.count)
        words = self.socket.recv(100).split()
        if int(words[0]) != self.count or int(words[1]) != self.served + 1:
            raise WrongAnswer(f"{words} for {self.count} after {self.served}")
        self.served += 1

    def retransmits(self) -> int:
        """UDP does not."""
        return 0


KINDS: dict[str, type[Line]] = {
    "line": Line,
    "busy": Busy,
    "echo": Echo,
    "redis": Redis,
    "counter": Counter,
    "http": Http,
    "postgres": Postgres,
    "udp": Datagrams,
}


class User:
    """Asks, and counts what it felt."""

    def __init__(self, kind: str, address: str, port: int) -> None:
        self.where = (kind, address, port)
        self.line = self.make()
        self.turn = threading.Lock()
        self.background: threading.Thread | None = None
        self.ending = threading.Event()
        self.totals = {"asked": 0, "wrong": 0, "resets": 0, "lost": 0}
        self.first_error = ""
        self.longest_ms = 0.0

    def make(self) -> Line:
        """A connection."""
        kind, address, port = self.where
        return KINDS[kind](address, port)

    def ask(self) -> float:
        """One request; its milliseconds."""
        with self.turn:
            began = time.monotonic()
            self.judged(self.line.ask)
            took_ms = (time.monotonic() - began) * 1000
            self.totals["asked"] += 1
            self.longest_ms = max(self.longest_ms, took_ms)
            return took_ms

    def judged(self, step: Callable[[], None]) -> None:
        """Runs a step and counts how it failed, if it did."""
        try:
            step()
        except WrongAnswer as error:
            self.failed("wrong", error)
        except TimeoutError as error:
            self.failed("lost", error)
        except OSError as error:
            self.failed("resets", error)

    def failed(self, how: str, error: Exception) -> None:
        """Notes a failure."""
        self.totals[how] += 1
        self.first_error = self.first_error or f"{type(error).__name__}: {error}"

    def keep_asking(self, period_ms: float) -> None:
        """Until it is told to stop, or its connection is gone."""
        while not self.ending.wait(period_ms / 1000) and not self.totals["resets"]:
            self.ask()

    def command(self, words: list[str]) -> dict[str, Any]:
        """Does what a line of stdin says."""
        match words:
            case ["ask", *count]:
                return {"ms": [self.ask() for _ in range(int(count[0]) if count else 1)]}
            case ["start", period_ms]:
                self.ending.clear()
                self.background = threading.Thread(
                    target=self.keep_asking, args=[float(period_ms)], daemon=True
                )
                self.background.start()
                return {}
            case ["stop"]:
                self.ending.set()
                if self.background:
                    self.background.join()
                return {}
            case ["fresh"]:
                began = time.monotonic()
                self.judged(self.one_of_its_own)
                return {"ms": [(time.monotonic() - began) * 1000]}
            case ["finish"]:
                self.judged(self.line.finish)
        return {
            **self.totals,
            "longest_ms": self.longest_ms,
            "retransmits": self.line.retransmits(),
            "first_error": self.first_error,
            "said": self.line.said,
        }

    def one_of_its_own(self) -> None:
        """A request over a new connection."""
        made = self.make()
        made.ask()
        made.close()


def main() -> None:
    """Command line."""
    user = User(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    print("{}", flush=True)
    for line in sys.stdin:
        print(json.dumps(user.command(line.split())), flush=True)


if __name__ == "__main__":
    main()
