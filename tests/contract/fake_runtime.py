# SPDX-License-Identifier: Apache-2.0
"""A container runtime made of scripts: any method, bytes in and out, faults by method and count.

It keeps a record of each call. Whatever no script speaks for gets a canned CRI answer, or the
error that grpc-go gives for a method it does not know.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import grpc
from grpc._cython import cygrpc

from tests.contract.canned import canned_reply
from tests.contract.metadata import MetadataPairs, plain

UNLIMITED = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_metadata_size", 16 * 1024 * 1024),
    ("grpc.absolute_max_metadata_size", 16 * 1024 * 1024),
]

RESTART_WAIT_S = 10.0


def digest(data: bytes) -> str:
    """What two ends compare in place of large messages."""
    return f"{len(data)}:{hashlib.sha256(data).hexdigest()}"


@dataclass
class Seen:
    """One call as the backend saw it. Times are of the monotonic clock, the same in all processes.

    Attributes:
        ended: "" while it runs, then "ok", "error" or "cancelled".
    """

    method: str
    metadata: MetadataPairs
    time_remaining_s: float | None
    begun_s: float
    digests: list[str] = field(default_factory=list)
    first_request: bytes = b""
    half_closed: bool = False
    sent: int = 0
    ended: str = ""
    ended_s: float = 0.0


class FakeCall:
    """A call under way, as scripts handle it."""

    def __init__(self, seen: Seen, context: Any) -> None:
        self.seen = seen
        self.context = context

    async def read(self) -> bytes | None:
        """The next message of the caller, None after its last."""
        message = await self.context.read()
        if message is grpc.aio.EOF:
            self.seen.half_closed = True
            return None
        if not self.seen.digests:
            self.seen.first_request = message[:65536]
        self.seen.digests.append(digest(message))
        return bytes(message)

    async def write(self, message: bytes) -> None:
        """Sends one message; waits while the caller does not read."""
        await self.context.write(message)
        self.seen.sent += 1

    async def headers(self, pairs: MetadataPairs) -> None:
        """Sends initial metadata now."""
        await self.context.send_initial_metadata(pairs)

    async def fail(self, code: grpc.StatusCode, text: str, trailing: MetadataPairs = ()) -> None:
        """Ends the call with a status."""
        await self.context.abort(code, text, trailing)


class Script(Protocol):
    """What the backend does with a call."""

    async def act(self, call: FakeCall) -> None:
        """Handles one call; returning ends it with OK."""


class FakeRuntime:
    """The backend.

    Args:
        path: its socket.
        mode: of the socket; set after the bind, as containerd does.
        gid: group of the socket.
        options: of the gRPC server.
    """

    def __init__(
        self,
        path: Path,
        *,
        mode: int = 0o660,
        gid: int | None = None,
        options: Iterable[tuple[str, Any]] = (),
    ) -> None:
        self.path = path
        self.mode = mode
        self.gid = os.getgid() if gid is None else gid
        self.calls: list[Seen] = []
        self._options = [*options, *UNLIMITED]  # the first of a name counts
        self._scripts: list[_Entry] = []
        self._server: grpc.aio.Server | None = None

    # ---- scripting

    def on(self, method: str, script: Script, *, times: int | None = None) -> None:
        """Lets a script answer a method ("*" for any), the next ``times`` calls or all of them.

        The latest script for a method goes first; when its count is used up, the ones before it.
        """
        self._scripts.insert(0, _Entry(method, script, times))

    def reset(self) -> None:
        """Forgets scripts and records."""
        self._scripts.clear()
        self.calls.clear()

    def of(self, method: str) -> list[Seen]:
        """The calls of one method, oldest first."""
        return [seen for seen in self.calls if seen.method == method]

    def running(self) -> list[Seen]:
        """Calls that have not ended."""
        return [seen for seen in self.calls if not seen.ended]

    # ---- life

    async def start(self) -> None:
        """Binds the socket and serves."""
        self._server = grpc.aio.server(options=self._options)
        self._server.add_generic_rpc_handlers((_AnyMethod(self._handle),))
        self._server.add_insecure_port(f"unix:{self.path}")
        await self._server.start()
        self.path.chmod(self.mode)
        os.chown(self.path, -1, self.gid)

    async def stop(self) -> None:
        """Stops hard, as containerd does; the path goes too."""
        if self._server is not None:
            server, self._server = self._server, None
            await server.stop(None)
            self.path.unlink(missing_ok=True)

    async def _handle(self, method: str, context: Any) -> None:
        pairs = plain(context.invocation_metadata())
        seen = Seen(method, pairs, context.time_remaining(), time.monotonic())
        self.calls.append(seen)
        try:
            await self._script_for(method).act(FakeCall(seen, context))
            seen.ended = "ok"
        except asyncio.CancelledError:
            seen.ended = "cancelled"
            raise
        except grpc.aio.AbortError:
            seen.ended = "error"
            raise
        except cygrpc.InternalError:
            seen.ended = "cancelled"  # writing failed: the caller is gone
        finally:
            seen.ended_s = time.monotonic()

    def _script_for(self, method: str) -> Script:
        for entry in self._scripts:
            if entry.method in (method, "*") and entry.left != 0:
                if entry.left is not None:
                    entry.left -= 1
                return entry.script
        return _Default()


@dataclass
class _Entry:
    method: str
    script: Script
    left: int | None


class _AnyMethod(grpc.GenericRpcHandler):
    def __init__(self, handle: Callable[[str, Any], Any]) -> None:
        self._handle = handle

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        async def carry(_: object, context: Any) -> None:
            await self._handle(details.method, context)

        return grpc.stream_stream_rpc_method_handler(carry)


class _Default:
    async def act(self, call: FakeCall) -> None:
        request = await call.read()
        reply = canned_reply(call.seen.method, request or b"")
        if reply is not None:
            await call.write(reply)
            return
        service, _, name = call.seen.method.strip("/").rpartition("/")
        known = service in ("runtime.v1.RuntimeService", "runtime.v1.ImageService")
        text = f"unknown method {name} for service {service}" if known else (
            f"unknown service {service}"
        )  # fmt: skip
        await call.fail(grpc.StatusCode.UNIMPLEMENTED, text)


@contextlib.asynccontextmanager
async def running(fake: FakeRuntime) -> Any:
    """Serves for the length of a block."""
    await fake.start()
    try:
        yield fake
    finally:
        await fake.stop()
