# SPDX-License-Identifier: Apache-2.0
"""T11-T16: back-pressure, sizes, concurrency, order, exactly one call, and long idleness."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter

import grpc
import psutil
import pytest

from shim.core.methods import IMAGE, RUNTIME
from tests.compare import assert_in_order
from tests.contract import wire
from tests.contract.client import connect, stream, unary, until
from tests.contract.fake_runtime import FakeRuntime, Seen, digest
from tests.contract.scripts import Delay, Echo, Events, Fail, Feed, Gate, Hang, Reply
from tests.contract.wire import Splice
from tests.fix_contract import Rig, ShimFactory

MIB = 1024 * 1024
STREAM = RUNTIME + "StreamContainers"
OTHER = "/some.other.Service/Method"
TOTAL = 200
MEMORY_MIB = 40
STOPPED_READER_MIB = 8


async def _standing_still(count: object) -> int:
    last, since_s, give_up_s = -1, time.monotonic(), time.monotonic() + 30
    while time.monotonic() - since_s < 0.5:
        assert time.monotonic() < give_up_s, "nobody ever stalls"
        if (now := count()) != last:  # type: ignore[operator]
            last, since_s = now, time.monotonic()
        await asyncio.sleep(0.02)
    return last


async def test_t11_slow_reader_stalls_the_backend(own_rig: Rig) -> None:
    """T11: 200 MiB towards a caller who does not read: we hold little, and nothing is lost."""
    rig = own_rig
    rig.fake.on(STREAM, Events(TOTAL, size_bytes=MIB))
    process = psutil.Process(rig.shim.pid)
    before = process.memory_info().rss
    call = rig.through.unary_stream(STREAM)(b"")
    await call.read()
    backend: Seen = rig.fake.of(STREAM)[0]
    sent = await _standing_still(lambda: backend.sent)
    assert sent < TOTAL / 4, "the backend was not held back"
    assert (process.memory_info().rss - before) / MIB < MEMORY_MIB
    count = 1
    while (message := await call.read()) is not grpc.aio.EOF:
        assert int.from_bytes(message[:8], "big") == count
        count += 1
    assert count == TOTAL
    assert (process.memory_info().rss - before) / MIB < MEMORY_MIB


async def test_t11_many_stopped_readers(own_rig: Rig) -> None:
    """T11: twenty callers stop reading in mid-stream; together they cost us a bounded amount."""
    rig = own_rig
    rig.fake.on(STREAM, Events(TOTAL, size_bytes=MIB))
    process = psutil.Process(rig.shim.pid)
    before = process.memory_info().rss
    calls = [rig.through.unary_stream(STREAM)(b"") for _ in range(20)]
    for call in calls:
        for _ in range(5):
            await call.read()
    await _standing_still(lambda: sum(seen.sent for seen in rig.fake.of(STREAM)))
    assert (process.memory_info().rss - before) / MIB < 20 * STOPPED_READER_MIB
    for call in calls:
        call.cancel()


async def test_t11_slow_backend_stalls_the_caller(own_rig: Rig) -> None:
    """T11: the same upwards."""
    rig = own_rig
    gate = Gate()
    rig.fake.on(OTHER, gate)
    process = psutil.Process(rig.shim.pid)
    before = process.memory_info().rss
    call = rig.through.stream_stream(OTHER)()
    written = 0

    async def write() -> None:
        nonlocal written
        for _ in range(TOTAL):
            await call.write(bytes(MIB))
            written += 1
        await call.done_writing()

    writer = asyncio.create_task(write())
    assert await _standing_still(lambda: written) < TOTAL / 4
    assert (process.memory_info().rss - before) / MIB < MEMORY_MIB
    gate.opened.set()
    assert await call.read() == b"%d" % TOTAL
    await writer


@pytest.mark.parametrize("mib", [4, 16, 17, 64])
@pytest.mark.parametrize("method", [RUNTIME + "Status", RUNTIME + "ExecSync", STREAM])
async def test_t12_no_size_limit_of_ours(rig: Rig, method: str, mib: int) -> None:
    """T12: large requests and replies, just above the sizes where limits are."""
    # A length-delimited unknown field: valid for any message, so that rules decode it too.
    size = mib * MIB + 100
    body = random.Random(mib).randbytes(64) * (size // 64)
    message = b"\xfa\x7c" + _varint(len(body)) + body
    rig.fake.on(method, Echo())
    seen = await unary(rig.through, method, message)
    assert seen.code is grpc.StatusCode.OK, seen.text
    assert rig.fake.of(method)[0].digests == [digest(message)]
    assert digest(seen.replies[0]) == digest(message)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes(out + bytes([value]))


async def test_t12_limits_of_the_ends_are_told_in_their_words(
    shims: ShimFactory, home: object
) -> None:
    """T12: a backend that takes 16 MiB refuses 17 in its own words; so does a caller."""
    limits = [("grpc.max_receive_message_length", 16 * MIB)]
    fake = FakeRuntime(home / "small.sock", options=limits)  # type: ignore[operator]
    await fake.start()
    try:
        shim = await shims.make(fake.path).start()
        fake.on(OTHER, Echo())
        fake.on(STREAM, Events(1, size_bytes=17 * MIB))
        async with (
            connect(fake.path, limits) as direct,
            connect(shim.socket, limits) as through,
        ):
            for method, request in ((OTHER, bytes(17 * MIB)), (STREAM, b"")):
                wanted = await unary(direct, method, request)
                seen = await unary(through, method, request)
                assert wanted.code is grpc.StatusCode.RESOURCE_EXHAUSTED
                assert (seen.code, seen.text) == (wanted.code, wanted.text)
    finally:
        await fake.stop()


async def test_t12_resource_exhausted_of_the_runtime(rig: Rig) -> None:
    """T12: containerd's words about its own send limit pass unchanged."""
    text = "grpc: trying to send message larger than max (17825809 vs. 16777216)"
    rig.fake.on(RUNTIME + "ListContainers", Fail(grpc.StatusCode.RESOURCE_EXHAUSTED, text))
    seen = await unary(rig.through, RUNTIME + "ListContainers")
    assert (seen.code, seen.text) == (grpc.StatusCode.RESOURCE_EXHAUSTED, text)


async def test_t13_hanging_calls_delay_nobody(rig: Rig) -> None:
    """T13: 200 calls that hang, of every kind, and Version is answered as if they were not."""
    kinds = (IMAGE + "PullImage", RUNTIME + "ExecSync", RUNTIME + "GetContainerEvents", OTHER)
    for method in kinds:
        rig.fake.on(method, Hang())
    hanging = [asyncio.create_task(unary(rig.through, kinds[number % 4])) for number in range(200)]
    await until(lambda: len(rig.fake.running()) == 200, what="200 calls hang")
    for _ in range(50):
        answer = await unary(rig.through, RUNTIME + "Version", timeout_s=1.0)
        assert answer.code is grpc.StatusCode.OK
    assert len(rig.fake.running()) == 200
    for task in hanging:
        task.cancel()
    await asyncio.gather(*hanging, return_exceptions=True)


async def test_t13_more_than_a_hundred_calls_on_one_connection(rig: Rig) -> None:
    """T13: no limit of ours on streams at once: 1,000 calls are at the backend together."""
    rig.fake.on(OTHER, Hang())
    calls = [rig.through.unary_unary(OTHER)(b"") for _ in range(1000)]
    await until(lambda: len(rig.fake.running()) == 1000, what="1000 calls at once", within_s=30)
    for call in calls:
        call.cancel()


@pytest.mark.parametrize("method", [RUNTIME + "GetContainerEvents", OTHER])
async def test_t14_order_kept_none_lost_none_doubled(rig: Rig, method: str) -> None:
    """T14: 2,000 numbered events in each of four streams at once."""
    rig.fake.on(method, Events(2000))
    for seen in await asyncio.gather(*(stream(rig.through, method) for _ in range(4))):
        numbers = [int.from_bytes(message[:8], "big") for message in seen.replies]
        assert_in_order(numbers, 2000)


async def test_t15_one_backend_call_for_each(rig: Rig) -> None:
    """T15: successes, failures of the retryable kind and slow calls: each arrives exactly once."""
    rig.fake.on(RUNTIME + "StartContainer", Fail(grpc.StatusCode.UNAVAILABLE, "try again"))
    rig.fake.on(RUNTIME + "StopContainer", Fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "later"))
    rig.fake.on(RUNTIME + "CreateContainer", Delay(0.3, Reply()))
    rig.fake.on(RUNTIME + "StreamContainers", Fail(grpc.StatusCode.UNAVAILABLE, "x", replies=1))
    rig.fake.on(IMAGE + "PullImage", Fail(grpc.StatusCode.ABORTED, "x", read_first=False))
    rig.fake.on(OTHER, Fail(grpc.StatusCode.UNAVAILABLE, "x", read_first=False))
    made: Counter[str] = Counter()
    calls = []
    for name in ("StartContainer", "StopContainer", "CreateContainer", "Version"):
        calls += [RUNTIME + name] * 25
    calls += [RUNTIME + "StreamContainers", IMAGE + "PullImage", OTHER] * 25
    for method in calls:
        made[method] += 1
    await asyncio.gather(*(unary(rig.through, method) for method in calls))
    assert Counter(seen.method for seen in rig.fake.calls) == made


async def test_t15_a_cut_connection_is_not_retried(shims: ShimFactory, fake: FakeRuntime) -> None:
    """T15: the backend dies with calls under way: each fails once, none is sent again."""
    splice = Splice(fake.path.with_name("cut.sock"), fake.path)
    await splice.start()
    try:
        shim = await shims.make(splice.path).start()
        methods = [RUNTIME + "StartContainer", STREAM, OTHER]
        for method in methods:
            fake.on(method, Hang())
        async with connect(shim.socket) as through:
            calls = [asyncio.create_task(unary(through, method)) for method in methods]
            await until(lambda: len([s for s in fake.running() if s.digests]) == 3, what="calls")
            splice.cut()
            for seen in await asyncio.gather(*calls):
                assert seen.code is grpc.StatusCode.UNAVAILABLE
            await until(
                lambda: splice.connections > 1, what="the service connects anew", within_s=5
            )
            assert (await unary(through, RUNTIME + "Version")).code is grpc.StatusCode.OK
        assert [len(fake.of(method)) for method in methods] == [1, 1, 1]
    finally:
        await splice.stop()


async def _idle(shims: ShimFactory, fake: FakeRuntime, pauses_s: list[float]) -> None:
    """An open stream without events, over many connection ages, and a call after each pause."""
    splice = Splice(fake.path.with_name("splice.sock"), fake.path)
    await splice.start()
    feed = Feed()
    fake.on(RUNTIME + "GetContainerEvents", feed)
    try:
        shim = await shims.make(splice.path, connection_age_s=1.0).start()
        async with connect(shim.socket) as through:
            call = through.unary_stream(RUNTIME + "GetContainerEvents")(b"")
            await until(lambda: feed.queues, what="the stream opens")
            for pause_s in pauses_s:
                await asyncio.sleep(pause_s)
                answer = await unary(through, RUNTIME + "Version", timeout_s=5.0)
                assert answer.code is grpc.StatusCode.OK, answer.text
            feed.push(b"still here")
            assert await asyncio.wait_for(call.read(), 5) == b"still here"
            call.cancel()
        assert len(fake.of(RUNTIME + "GetContainerEvents")) == 1
        assert splice.connections == 1, "the connection to the runtime broke"
        assert splice.to_client[wire.GOAWAY] == 0
        # grpc-go answers the third ping within five minutes without data by "too_many_pings"
        # (internal/transport/http2_server.go), so an idle connection must carry none.
        assert splice.to_server[wire.PING] == 0
    finally:
        await splice.stop()


async def test_t16_idle_stream_over_many_connection_ages(
    shims: ShimFactory, fake: FakeRuntime
) -> None:
    """T16: three ages with calls, three in silence; the old stream lives on its old connection."""
    await _idle(shims, fake, [0.05] * 60 + [3.0])


@pytest.mark.slow
async def test_t16_a_minute_of_silence(shims: ShimFactory, fake: FakeRuntime) -> None:
    """T16: sixty ages with hardly a call."""
    await _idle(shims, fake, [20.0] * 3)
