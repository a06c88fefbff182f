# SPDX-License-Identifier: Apache-2.0
"""T8-T10: deadlines, cancellation, and which side ends a call when."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import grpc
import pytest

from shim.core.methods import RUNTIME
from tests.contract.client import Observation, best_of, say, stream, unary, until
from tests.contract.fake_runtime import Seen
from tests.contract.metadata import by_key
from tests.contract.scripts import Delay, Echo, EndEarly, Events, Fail, Feed, Hang, LastWord, Reply
from tests.contract.shim_process import ROOT
from tests.fix_contract import Rig

UNARY = RUNTIME + "Status"
RULED = RUNTIME + "StopContainer"
STREAM = RUNTIME + "GetContainerEvents"
OTHER = "/some.other.Service/Method"
METHODS = [
    pytest.param(method, id=method.rpartition("/")[2]) for method in (UNARY, RULED, STREAM, OTHER)
]

DEADLINE_ERROR_S = 0.05
CANCEL_S = 0.1


def _step_s(timeout_s: float) -> float:
    """How coarsely gRPC's C core writes a timeout (core/lib/transport/timeout_encoding.cc)."""
    return next((s for below_s, s in ((1, 0.001), (10, 0.01), (100, 0.1), (1000, 1), (10000, 10))
                 if timeout_s < below_s), 100)  # fmt: skip


@pytest.mark.parametrize("timeout_s", [0.5, 2.0, 120.0, 240.0, 86400.0])
@pytest.mark.parametrize("method", METHODS)
async def test_t8_deadline_reaches_the_backend(rig: Rig, method: str, timeout_s: float) -> None:
    """T8: the backend has the caller's remaining time, to 50 ms, and never less.

    On top of that comes what gRPC's C core rounds up on each of the two ways, ours and the test
    client's: at most one part in a hundred. The call ends on time nevertheless: see below.
    """
    bound_s = DEADLINE_ERROR_S + 2 * _step_s(timeout_s)
    rig.fake.on(method, Reply())

    async def late_s() -> float:
        deadline_s = time.monotonic() + timeout_s
        await unary(rig.through, method, timeout_s=timeout_s)
        backend = rig.fake.of(method)[-1]
        assert backend.time_remaining_s is not None
        late = backend.begun_s + backend.time_remaining_s - deadline_s
        assert late > -DEADLINE_ERROR_S
        return late

    assert await best_of(3, bound_s, late_s) < bound_s


@pytest.mark.parametrize("method", METHODS)
async def test_t8_no_deadline_stays_none(rig: Rig, method: str) -> None:
    """T8: ExecSync without a timeout and image pulls have none."""
    rig.fake.on(method, Reply())
    await unary(rig.through, method)
    assert rig.fake.of(method)[0].time_remaining_s is None


@pytest.mark.parametrize("method", METHODS)
async def test_t8_deadline_ends_the_call_at_both_ends(rig: Rig, method: str) -> None:
    """T8: the caller hears DeadlineExceeded, and the backend's call is cancelled."""
    rig.fake.on(method, Hang())
    seen = await unary(rig.through, method, timeout_s=0.2)
    assert seen.code is grpc.StatusCode.DEADLINE_EXCEEDED
    await until(lambda: rig.fake.of(method)[0].ended == "cancelled", what="the backend hears of it")


@pytest.mark.parametrize("method", METHODS)
async def test_t8_backends_own_deadline_error_is_told(rig: Rig, method: str) -> None:
    """T8: DeadlineExceeded of the runtime (a command that timed out) is not ours to reword."""
    rig.fake.on(method, Fail(grpc.StatusCode.DEADLINE_EXCEEDED, "timeout 1s exceeded"))
    seen = await unary(rig.through, method, timeout_s=60)
    assert seen == Observation(grpc.StatusCode.DEADLINE_EXCEEDED, "timeout 1s exceeded")


def _cancelled_after(seen: Seen, since_s: float) -> float:
    return seen.ended_s - since_s


@pytest.mark.parametrize("kind", ["unary", "ruled", "idle-stream", "full-stream", "other"])
async def test_t9_cancel_reaches_the_backend(rig: Rig, kind: str) -> None:
    """T9: within 100 ms, from wherever the call is."""
    method = {"unary": UNARY, "ruled": RULED, "other": OTHER}.get(kind, STREAM)
    endless = Events(1_000_000, size_bytes=65536)
    rig.fake.on(method, endless if kind == "full-stream" else Hang(initial=(("x-up", "1"),)))

    async def delay_s() -> float:
        if kind in ("unary", "ruled"):
            call = rig.through.unary_unary(method)(b"")
        else:
            call = rig.through.unary_stream(method)(b"")
        count = len(rig.fake.calls)
        await until(lambda: len(rig.fake.calls) > count, what="the call arrives")
        backend = rig.fake.calls[-1]
        await until(lambda: backend.digests, what="the request arrives")
        if kind == "full-stream":
            await call.read()
            await _stalled(backend)
        began_s = time.monotonic()
        call.cancel()
        await until(lambda: backend.ended, what="the backend's call ends", step_s=0.001)
        assert backend.ended == "cancelled"
        return _cancelled_after(backend, began_s)

    assert await best_of(3, CANCEL_S, delay_s) < CANCEL_S


async def _stalled(backend: Seen) -> None:
    """Waits until nobody reads any more: the count of messages sent stands still."""
    last, since_s = -1, time.monotonic()
    while time.monotonic() - since_s < 0.2:
        if backend.sent != last:
            last, since_s = backend.sent, time.monotonic()
        await asyncio.sleep(0.01)


CLIENT = """
import sys, grpc
channel = grpc.insecure_channel("unix:" + sys.argv[1])
calls = [channel.unary_stream(sys.argv[2])(b""), channel.unary_unary(sys.argv[3]).future(b"")]
print("open", flush=True)
sys.stdin.read()
"""


def _client(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", CLIENT, *arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT,
    )  # fmt: skip


async def test_t9_killed_client_cancels_at_the_backend(rig: Rig) -> None:
    """T9: kill -9 of the client, with a stream and a unary call open."""
    for method in (STREAM, UNARY):
        rig.fake.on(method, Hang())

    async def delay_s() -> float:
        rig.fake.calls.clear()
        client = _client(str(rig.shim.socket), STREAM, UNARY)
        try:
            await until(
                lambda: len([s for s in rig.fake.calls if s.digests]) == 2, what="both calls arrive"
            )
        finally:
            client.kill()
            killed_s = time.monotonic()
            client.communicate()
        await until(lambda: not rig.fake.running(), what="both calls end", step_s=0.001)
        assert {seen.ended for seen in rig.fake.calls} == {"cancelled"}
        return max(_cancelled_after(seen, killed_s) for seen in rig.fake.calls)

    assert await best_of(3, CANCEL_S, delay_s) < CANCEL_S


async def test_t9_caller_gone_before_the_answer(rig: Rig) -> None:
    """T9: many calls cancelled at random moments leave nothing behind at the backend."""
    rig.fake.on(UNARY, Delay(0.005, Reply(b"x")))
    rig.fake.on(STREAM, Delay(0.005, Events(3)))
    for number in range(100):
        call = rig.through.unary_unary(UNARY)(b"") if number % 2 else (
            rig.through.unary_stream(STREAM)(b"")
        )  # fmt: skip
        await asyncio.sleep((number % 10) / 1000)
        call.cancel()
    await until(lambda: not rig.fake.running(), what="the backend's calls end")
    assert (await unary(rig.through, UNARY)).replies == [b"x"]


async def test_t10_half_close_reaches_the_backend_and_only_it(rig: Rig) -> None:
    """T10: the caller's last word is told when it is said; replies still come after it."""
    rig.fake.on(OTHER, LastWord())
    call = rig.through.stream_stream(OTHER)()
    await call.write(b"1")
    await call.write(b"2")
    await until(lambda: rig.fake.of(OTHER) and len(rig.fake.of(OTHER)[0].digests) == 2,
                what="both requests arrive")  # fmt: skip
    assert not rig.fake.of(OTHER)[0].half_closed
    await call.done_writing()
    assert await call.read() == b"2"
    assert await call.code() is grpc.StatusCode.OK


async def test_t10_both_sides_talk_in_turn(rig: Rig) -> None:
    """T10: each request is answered before the next is sent; nothing waits for an end."""
    rig.fake.on(OTHER, Echo())
    call = rig.through.stream_stream(OTHER)()
    for number in range(50):
        await call.write(b"%d" % number)
        assert await asyncio.wait_for(call.read(), 10) == b"%d" % number
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF


@pytest.mark.parametrize("method", [STREAM, OTHER])
async def test_t10_early_end_by_the_backend(rig: Rig, method: str) -> None:
    """T10: OK and trailer arrive while the caller's side is still open."""
    rig.fake.on(method, EndEarly(2))
    call = rig.through.stream_stream(method)()
    await call.write(b"")
    replies = [await call.read(), await call.read(), await call.read()]
    assert replies == [b"0", b"1", grpc.aio.EOF]
    assert await call.code() is grpc.StatusCode.OK
    assert by_key(tuple(await call.trailing_metadata())) == {"x-end": ["early"]}


@pytest.mark.parametrize("method", METHODS)
async def test_t10_status_before_the_request_was_read(rig: Rig, method: str) -> None:
    """T10: what grpc-go does with an unknown method. Fifty times: it is a race with the writes."""
    wanted = Observation(grpc.StatusCode.UNIMPLEMENTED, "unknown method", trailing={"x-t": ["1"]})
    rig.fake.on(method, Fail(wanted.code, wanted.text, (("x-t", "1"),), read_first=False))
    for _ in range(50):
        if method in (UNARY, RULED):
            assert await unary(rig.through, method, bytes(1000)) == wanted
        else:
            assert await stream(rig.through, method, [bytes(100_000)] * 20) == wanted


async def test_t10_backend_ends_while_the_caller_still_writes(rig: Rig) -> None:
    """T10: the writes stop being taken and the status is the backend's."""
    rig.fake.on(OTHER, Fail(grpc.StatusCode.ABORTED, "enough"))
    call = rig.through.stream_stream(OTHER)()
    await say(call, [bytes(1_000_000)] * 30)
    assert (await call.code(), await call.details()) == (grpc.StatusCode.ABORTED, "enough")


async def test_t10_ends_of_a_feed(rig: Rig) -> None:
    """T10: the backend closes an idle stream with OK, another by an error: both told as such."""
    feed = Feed()
    rig.fake.on(STREAM, feed)
    call = rig.through.unary_stream(STREAM)(b"")
    await until(lambda: feed.queues, what="the stream opens")
    feed.push(b"event")
    assert await call.read() == b"event"
    feed.push(None)
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK


def test_no_test_needs_a_path_too_long_for_a_socket(home: Path) -> None:
    """The fixtures' own promise: room for the longest name the service makes."""
    assert len(str(home / "node0" / "private" / "podferry.sock.4194304.next")) < 107
