# SPDX-License-Identifier: Apache-2.0
"""T17-T19: the runtime is away, comes back, is not ready yet, or does not speak."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from shim.core.methods import IMAGE, RUNTIME
from tests.contract.client import best_of, connect, crowding, stream, unary, until
from tests.contract.fake_process import FakeProcess
from tests.contract.fake_runtime import FakeRuntime
from tests.contract.scripts import Fail, Feed, Hang
from tests.contract.wire import Splice
from tests.fix_contract import ShimFactory

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
ASKED = (
    RUNTIME + "Version",
    RUNTIME + "ListPodSandbox",
    RUNTIME + "ListContainers",
    IMAGE + "ListImages",
    RUNTIME + "StopContainer",
    RUNTIME + "RunPodSandbox",
    RUNTIME + "StreamContainers",
    RUNTIME + "GetContainerEvents",
    "/some.other.Service/Method",
)
AT_ONCE_S = 0.5
BACK_S = 1.0


@pytest.fixture
def mortal(home: Path) -> Iterator[FakeProcess]:
    """A backend that can be killed; not started."""
    backend = FakeProcess(
        home / "runtime.sock", [(RUNTIME + "GetContainerEvents", Hang((("x-up", "1"),)))]
    )
    yield backend
    backend.kill()


async def _all_unavailable(channel: grpc.aio.Channel) -> None:
    """Every method fails at once although its caller would wait for ever."""
    for method in ASKED:
        begun_s = time.monotonic()
        seen = await asyncio.wait_for(stream(channel, method), 10)
        assert (seen.code, seen.replies) == (UNAVAILABLE, []), f"{method}: {seen}"
        took_s = time.monotonic() - begun_s

        async def again_s(method: str = method) -> float:
            again_s = time.monotonic()
            await unary(channel, method)
            return time.monotonic() - again_s

        if took_s >= AT_ONCE_S:
            assert await best_of(3, AT_ONCE_S, again_s) < AT_ONCE_S, method


async def test_t17_absent_from_the_start(home: Path, shims: ShimFactory) -> None:
    """T17: no runtime at all: Unavailable, never an empty list, and the service serves."""
    shim = await shims.make(home / "nobody.sock").start()
    async with connect(shim.socket) as channel:
        await _all_unavailable(channel)


async def test_t17_killed_while_calls_are_open(mortal: FakeProcess, shims: ShimFactory) -> None:
    """T17: kill -9 of the runtime: open calls end with Unavailable, later ones fail at once."""
    await mortal.start()
    shim = await shims.make(mortal.path).start()
    async with connect(shim.socket) as channel:
        assert (await unary(channel, RUNTIME + "Version")).code is grpc.StatusCode.OK
        events = channel.unary_stream(RUNTIME + "GetContainerEvents")(b"")
        await asyncio.wait_for(events.initial_metadata(), 5)  # the backend has it
        mortal.kill()
        assert await asyncio.wait_for(events.code(), 5) is UNAVAILABLE
        await _all_unavailable(channel)


async def test_t17_deaf_runtime(home: Path, shims: ShimFactory) -> None:
    """T17: somebody accepts connections and never says a word: Unavailable, in bounded time."""
    splice = Splice(home / "deaf.sock", home / "nobody.sock")
    splice.deaf = True
    await splice.start()
    try:
        shim = await shims.make(splice.path).start()
        async with connect(shim.socket) as channel:
            begun_s = time.monotonic()
            seen = await asyncio.wait_for(unary(channel, RUNTIME + "ListContainers"), 10)
            assert seen.code is UNAVAILABLE
            assert time.monotonic() - begun_s < 5, "kubelet would take the runtime for stuck"
    finally:
        await splice.stop()


async def test_t17_flapping_runtime(fake: FakeRuntime, shims: ShimFactory) -> None:
    """T17: connections break again and again: every call has an answer or Unavailable."""
    splice = Splice(fake.path.with_name("flap.sock"), fake.path)
    await splice.start()
    try:
        shim = await shims.make(splice.path).start()
        codes: set[grpc.StatusCode] = set()
        async with connect(shim.socket) as channel:
            for number in range(12):
                splice.refuses = number % 3 == 2
                splice.cut()
                seen = await asyncio.gather(
                    *(unary(channel, method, timeout_s=5) for method in ASKED[:4])
                )
                codes |= {answer.code for answer in seen}
                for answer in seen:
                    assert answer.replies or answer.code is UNAVAILABLE, answer
                await asyncio.sleep(0.05)
            splice.refuses = False
            await _first_success(channel)
        assert codes <= {grpc.StatusCode.OK, UNAVAILABLE}
    finally:
        await splice.stop()


async def _first_success(channel: grpc.aio.Channel, within_s: float = 30.0) -> float:
    """Asks every 20 ms, as a caller who retries; when a call succeeded first."""
    over_s = time.monotonic() + within_s
    while time.monotonic() < over_s:
        answer = await unary(channel, RUNTIME + "ListContainers", timeout_s=5)
        if answer.code is grpc.StatusCode.OK:
            assert answer.replies[0], "an empty list"
            return time.monotonic()
        assert answer.code is UNAVAILABLE
        await asyncio.sleep(0.02)
    raise AssertionError(f"no success within {within_s:g} s")


async def _back_after(mortal: FakeProcess, shims: ShimFactory, outage_s: float, tries: int) -> None:
    await mortal.start()
    shim = await shims.make(mortal.path).start()
    async with connect(shim.socket) as channel:
        await _first_success(channel)

        async def measure() -> float:
            mortal.kill()
            pollers = [
                asyncio.create_task(_first_success_after(channel, outage_s)) for _ in range(4)
            ]
            await asyncio.sleep(outage_s)
            mortal.spawn()
            await mortal.listening()
            back_s = time.monotonic()
            return max(await asyncio.gather(*pollers)) - back_s

        bound_s = BACK_S * await crowding()
        assert await best_of(tries, bound_s, measure) < bound_s


async def _first_success_after(channel: grpc.aio.Channel, outage_s: float) -> float:
    failed = await unary(channel, RUNTIME + "Version")
    assert failed.code is UNAVAILABLE
    return await _first_success(channel, outage_s + 30)


async def test_t18_back_after_one_second(mortal: FakeProcess, shims: ShimFactory) -> None:
    """T18: first success within 1 s of the runtime's return, after an outage of 1 s."""
    await _back_after(mortal, shims, 1.0, 3)


@pytest.mark.slow
async def test_t18_back_after_forty_seconds(mortal: FakeProcess, shims: ShimFactory) -> None:
    """T18: the same after 40 s, when reconnect attempts have backed off as far as they go."""
    await _back_after(mortal, shims, 40.0, 2)


@pytest.mark.slow
async def test_t18_back_after_five_minutes(mortal: FakeProcess, shims: ShimFactory) -> None:
    """T18: the same after 300 s."""
    await _back_after(mortal, shims, 300.0, 1)


async def test_t18_event_stream_ends_with_the_runtime_and_can_be_opened_again(
    home: Path, shims: ShimFactory
) -> None:
    """T18: the runtime stops hard, as containerd does: the stream's end is no OK."""
    fake = FakeRuntime(home / "runtime.sock")
    feed = Feed()
    fake.on(RUNTIME + "GetContainerEvents", feed)
    await fake.start()
    try:
        shim = await shims.make(fake.path).start()
        async with connect(shim.socket) as channel:
            call = channel.unary_stream(RUNTIME + "GetContainerEvents")(b"")
            await until(lambda: feed.queues, what="the stream opens")
            await fake.stop()
            assert await asyncio.wait_for(call.code(), 5) is not grpc.StatusCode.OK
            await fake.start()
            await _first_success(channel)
            call = channel.unary_stream(RUNTIME + "GetContainerEvents")(b"")
            await until(lambda: feed.queues, what="the stream opens again")
            feed.push(b"after")
            assert await call.read() == b"after"
            call.cancel()
    finally:
        await fake.stop()


async def test_t19_not_initialized_yet(home: Path, shims: ShimFactory) -> None:
    """T19: a runtime that starts says so to every call; word for word, also while we start."""
    fake = FakeRuntime(home / "runtime.sock")
    text = "server is not initialized yet"
    fake.on("*", Fail(UNAVAILABLE, text, read_first=False))
    await fake.start()
    try:
        shim = await shims.make(fake.path).start()
        async with connect(shim.socket) as channel:
            for method in ASKED:
                for call in (unary, stream):
                    seen = await call(channel, method)
                    assert (seen.code, seen.text) == (UNAVAILABLE, text), method
            fake.reset()
            seen = await unary(channel, RUNTIME + "ListContainers")
            assert seen.code is grpc.StatusCode.OK
    finally:
        await fake.stop()
