# SPDX-License-Identifier: Apache-2.0
"""A CRI client that notes everything it can observe of a call, to compare two ways of calling."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from grpc._cython import cygrpc

from tests.contract.fake_runtime import UNLIMITED
from tests.contract.metadata import InOrder, MetadataPairs, by_key, plain

Values = dict[str, list[str | bytes]]


@dataclass
class Observation:
    """What a caller learns from a call."""

    code: grpc.StatusCode
    text: str
    replies: list[bytes] = field(default_factory=list)
    initial: Values = field(default_factory=dict)
    trailing: Values = field(default_factory=dict)


def connect(path: Path, options: Iterable[tuple[str, Any]] = ()) -> grpc.aio.Channel:
    """A channel without limits of its own, like kubelet's.

    Retries stay on: without a service config only the transparent ones are left, for calls that the
    server never saw, which grpc-go always makes. Without them a call that meets the GOAWAY of
    connection ageing is lost by the client itself (one in 28,000 here). The probe is off because
    its ping can cost C-core a reply that has come (docs/design.md, "Handover by ageing").
    """
    return grpc.aio.insecure_channel(
        f"unix:{path}",
        options=[
            *options,  # the first of a name counts
            *UNLIMITED,
            ("grpc.http2.bdp_probe", 0),
            ("grpc.default_authority", "localhost"),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.initial_reconnect_backoff_ms", 20),
            ("grpc.min_reconnect_backoff_ms", 1000),
            ("grpc.max_reconnect_backoff_ms", 100),
        ],
    )


async def unary(
    channel: grpc.aio.Channel,
    method: str,
    request: bytes = b"",
    *,
    metadata: MetadataPairs = (),
    timeout_s: float | None = None,
) -> Observation:
    """Makes a unary call and observes it."""
    call = channel.unary_unary(method)(request, metadata=InOrder(*metadata), timeout=timeout_s)
    replies = []
    try:
        replies.append(bytes(await call))
    except grpc.aio.AioRpcError as error:
        return Observation(
            error.code(),
            error.details() or "",
            [],
            by_key(plain(error.initial_metadata())),
            by_key(plain(error.trailing_metadata())),
        )
    return Observation(
        await call.code(),
        await call.details() or "",
        replies,
        by_key(plain(await call.initial_metadata())),
        by_key(plain(await call.trailing_metadata())),
    )


async def stream(
    channel: grpc.aio.Channel,
    method: str,
    requests: Iterable[bytes] = (b"",),
    *,
    metadata: MetadataPairs = (),
    timeout_s: float | None = None,
) -> Observation:
    """Makes a call with streams in both directions, reads to the end and observes it."""
    call = channel.stream_stream(method)(metadata=InOrder(*metadata), timeout=timeout_s)
    replies: list[bytes] = []
    try:
        await say(call, requests)
        while (message := await call.read()) is not grpc.aio.EOF:
            replies.append(bytes(message))
    except (grpc.RpcError, asyncio.InvalidStateError):
        pass  # the status below says what happened
    return Observation(
        await call.code(),
        await call.details() or "",
        replies,
        by_key(plain(await call.initial_metadata())),
        by_key(plain(await call.trailing_metadata())),
    )


async def say(call: Any, requests: Iterable[bytes]) -> None:
    """Writes requests and closes the caller's side, whatever the other end does meanwhile.

    ``call.write`` makes up a status of its own where the call has been ended while it writes.
    """
    with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError, cygrpc.InternalError):
        await call.wait_for_connection()
        for request in requests:
            await call._cython_call.send_serialized_message(request)
        await call.done_writing()


async def until(
    condition: Callable[[], Any], *, what: str, within_s: float = 10.0, step_s: float = 0.005
) -> Any:
    """Waits for a condition and returns its value; fails with ``what`` after a bounded time."""
    give_up_s = time.monotonic() + within_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > give_up_s:
            raise AssertionError(f"not within {within_s:g} s: {what}")
        await asyncio.sleep(step_s)


async def best_of(tries: int, bound: float, measure: Callable[[], Awaitable[float]]) -> float:
    """The smallest of some measurements, stopping at the first within the bound.

    A bound of the contract is about what the service adds; the load of the machine adds too, but
    not to each try.
    """
    values: list[float] = []
    for _ in range(tries):
        values.append(await measure())
        if values[-1] < bound:
            break
    return min(values)


BUSY = """
import time
begun = time.monotonic(), time.process_time()
while time.process_time() - begun[1] < 0.2:
    pass
print((time.monotonic() - begun[0]) / (time.process_time() - begun[1]))
"""


async def crowding() -> float:
    """How much longer work takes here and now than its processor time: 1.0 on a quiet machine.

    Starting the service costs about half a second of processor time, so a bound on how long that
    takes holds for a machine that has a processor free, and stretches by this where it has none.
    """
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", BUSY, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await child.communicate()
    return max(1.0, float(output))
