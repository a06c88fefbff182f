# SPDX-License-Identifier: Apache-2.0
"""The client as a crowd: many kept connections to memcached, all of them asking at a time.

    crowd.py memcached ADDRESS PORT

It is told what to do as client.py is, which lies beside it on a node.
"""

from __future__ import annotations

import time

try:
    from tests.workloads.client import KINDS, Line, WrongAnswer, main
except ImportError:  # on a node
    from client import (  # type: ignore[import-not-found, no-redef]
        KINDS,
        Line,
        WrongAnswer,
        main,
    )

CONNECTIONS = 200


class Member(Line):
    """One of them, with a key of its own."""

    def __init__(self, address: str, port: int, key: bytes) -> None:
        super().__init__(address, port)
        self.key = key

    @property
    def value(self) -> bytes:
        """What is set in the present round; the numbers of the keys make the sizes differ."""
        return b"%s=%d;" % (self.key, self.count) * (1 + self.count % 40)

    def send_get(self) -> None:
        """Asks for its key."""
        self.socket.sendall(b"get %s\r\n" % self.key)

    def read_get(self) -> None:
        """Its key has what was set the last time, and nothing before the first."""
        line = self.read_line()
        if self.count == 0:
            if line != b"END":
                raise WrongAnswer(f"{line!r} for a key that was not set")
            return
        wanted = self.value
        if line != b"VALUE %s 0 %d" % (self.key, len(wanted)):
            raise WrongAnswer(f"{line!r} in round {self.count}")
        if self.read_exactly(len(wanted) + 2) != wanted + b"\r\n":
            raise WrongAnswer(f"another value of {self.key!r} in round {self.count}")
        if self.read_line() != b"END":
            raise WrongAnswer("more than one value")

    def send_set(self) -> None:
        """The next value."""
        self.count += 1
        self.socket.sendall(b"set %s 0 0 %d\r\n%s\r\n" % (self.key, len(self.value), self.value))

    def read_set(self) -> None:
        """It is stored."""
        line = self.read_line()
        if line != b"STORED":
            raise WrongAnswer(f"{line!r} for set")


class Crowd(Line):
    """All of them; a request is one get and one set of each, all under way at a time."""

    def __init__(self, address: str, port: int) -> None:
        # Not a line itself: it has many.
        self.said = {}
        key = b"podferry:%d" % time.monotonic_ns()
        self.members = [
            Member(address, port, b"%s:%d" % (key, number)) for number in range(CONNECTIONS)
        ]

    def ask(self) -> None:
        """Each reads what it has set the last time, then sets anew."""
        for step in (Member.send_get, Member.read_get, Member.send_set, Member.read_set):
            for one in self.members:
                step(one)

    def retransmits(self) -> int:
        """Of all."""
        return sum(one.retransmits() for one in self.members)

    def close(self) -> None:
        """All hang up."""
        for one in self.members:
            one.close()


if __name__ == "__main__":
    KINDS["memcached"] = Crowd
    main()
