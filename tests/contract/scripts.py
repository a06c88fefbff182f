# SPDX-License-Identifier: Apache-2.0
"""Scripts for the fake runtime: what it does with a call of a method.

Those without a queue or an event can be pickled, and so run in a backend of another process.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import grpc

from tests.contract.fake_runtime import FakeCall, Script
from tests.contract.metadata import MetadataPairs

SPOKEN_S = 0.02
"""Between headers and an end without a message: grpcio's streams lose the former at the ends if
both arrive together, as a client and so in podferry too."""


@dataclass
class Reply:
    """Reads a request and gives one reply."""

    data: bytes = b""
    initial: MetadataPairs = ()
    trailing: MetadataPairs = ()

    async def act(self, call: FakeCall) -> None:
        """Answers."""
        await call.read()
        if self.initial:
            await call.headers(self.initial)
        call.context.set_trailing_metadata(self.trailing)
        await call.write(self.data)


@dataclass
class Echo:
    """Gives every request back, as the reply to a unary call or one by one in a stream."""

    async def act(self, call: FakeCall) -> None:
        """Echoes until the caller has closed its side."""
        while (message := await call.read()) is not None:
            await call.write(message)


@dataclass
class Fail:
    """Ends with an error, after so many replies."""

    code: grpc.StatusCode
    text: str = ""
    trailing: MetadataPairs = ()
    initial: MetadataPairs = ()
    replies: int = 0
    read_first: bool = True

    async def act(self, call: FakeCall) -> None:
        """Fails."""
        if self.read_first:
            await call.read()
        if self.initial:
            await call.headers(self.initial)
            await asyncio.sleep(SPOKEN_S)
        for number in range(self.replies):
            await call.write(b"%d" % number)
        await call.fail(self.code, self.text, self.trailing)


@dataclass
class Delay:
    """Does nothing for a while and then what another script does."""

    delay_s: float
    then: Script = field(default_factory=Echo)

    async def act(self, call: FakeCall) -> None:
        """Waits and acts."""
        await asyncio.sleep(self.delay_s)
        await self.then.act(call)


@dataclass
class Hang:
    """Never answers; sends initial metadata at once if there is any, and reads the request."""

    initial: MetadataPairs = ()

    async def act(self, call: FakeCall) -> None:
        """Waits until it is cancelled."""
        if self.initial:
            await call.headers(self.initial)
        await call.read()
        await asyncio.Event().wait()


@dataclass
class Events:
    """A stream of so many messages of one size, each with its number in front.

    Attributes:
        idle: whether it then stays open without a word.
        trailing: of its OK.
    """

    count: int
    size_bytes: int = 16
    idle: bool = False
    trailing: MetadataPairs = ()

    async def act(self, call: FakeCall) -> None:
        """Streams."""
        await call.read()
        call.context.set_trailing_metadata(self.trailing)
        padding = bytes(max(0, self.size_bytes - 8))
        for number in range(self.count):
            await call.write(number.to_bytes(8, "big") + padding)
        if self.idle:
            await call.headers(())
            await asyncio.Event().wait()


@dataclass
class Feed:
    """A stream of the messages that a test pushes; None ends it with OK."""

    queues: list[asyncio.Queue[bytes | None]] = field(default_factory=list)
    initial: MetadataPairs = (("x-feed", "open"),)

    async def act(self, call: FakeCall) -> None:
        """Streams what is pushed."""
        await call.read()
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.queues.append(queue)
        try:
            await call.headers(self.initial)
            while (message := await queue.get()) is not None:
                await call.write(message)
        finally:
            self.queues.remove(queue)

    def push(self, message: bytes | None) -> None:
        """Sends a message to every open stream."""
        for queue in self.queues:
            queue.put_nowait(message)


@dataclass
class Gate:
    """Reads one request, then nothing more until the test opens it; says how many it read."""

    opened: asyncio.Event = field(default_factory=asyncio.Event)

    async def act(self, call: FakeCall) -> None:
        """Reads slowly."""
        await call.read()
        await self.opened.wait()
        count = 1
        while await call.read() is not None:
            count += 1
        await call.write(b"%d" % count)


@dataclass
class LastWord:
    """Half-close as a signal: answers only once the caller has said its last word."""

    async def act(self, call: FakeCall) -> None:
        """Counts requests up to the half-close and tells their number."""
        count = 0
        while await call.read() is not None:
            count += 1
        await call.write(b"%d" % count)


@dataclass
class EndEarly:
    """Ends with OK after some replies, with the caller's side still open."""

    replies: int = 1
    trailing: MetadataPairs = (("x-end", "early"),)
    initial: MetadataPairs = ()

    async def act(self, call: FakeCall) -> None:
        """Replies and leaves."""
        if self.initial:
            await call.headers(self.initial)
            await asyncio.sleep(SPOKEN_S)
        call.context.set_trailing_metadata(self.trailing)
        for number in range(self.replies):
            await call.write(b"%d" % number)
