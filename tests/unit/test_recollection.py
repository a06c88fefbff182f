# SPDX-License-Identifier: Apache-2.0
"""The registry is rebuilt soon whenever the runtime was reached anew; calls wait for it once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import grpc
import pytest

from shim.core.registry import Container, Registry, Sandbox
from shim.errors import InvalidMessage
from shim.runtime import containerd, recollection
from shim.runtime.recollection import RETRY_LAST_S, Recollection
from tests.unit.test_holds import FakeClockLoop

CONNECTING = grpc.ChannelConnectivity.CONNECTING
READY = grpc.ChannelConnectivity.READY
FAILED = grpc.ChannelConnectivity.TRANSIENT_FAILURE

WEB = Sandbox("s1", "shop", "web", "u")
APP = Container("c1", "s1", "app")


class Channel:
    """A channel whose state the test sets; watchers wake as gRPC's do."""

    def __init__(self) -> None:
        self.state = CONNECTING
        self._changed = asyncio.Event()

    def become(self, *states: grpc.ChannelConnectivity) -> None:
        """Goes through states faster than anybody can look."""
        for state in states:
            self.state = state
        self._changed.set()
        self._changed = asyncio.Event()

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        assert try_to_connect, "else the channel would fall idle"
        return self.state

    async def wait_for_state_change(self, last: grpc.ChannelConnectivity) -> None:
        await self._changed.wait()


class Runtime:
    """Answers lists as the test says, and notes when it was asked."""

    def __init__(self, loop: FakeClockLoop) -> None:
        self.channel = Channel()
        self.registry = Registry()
        self.connections = 0
        self.asked_s: list[float] = []
        self.failure: Exception | None = None
        self.delay_s = 0.0
        self._loop = loop
        self.recollection = Recollection(self.channel, self.registry, self._connected)

    def _connected(self) -> None:
        self.connections += 1

    async def list_all(self, _: object) -> containerd.Listing:
        self.asked_s.append(self._loop.time())
        await asyncio.sleep(self.delay_s)
        if self.failure:
            raise self.failure
        return containerd.Listing([WEB], [APP])


def play(scene: Callable[[Runtime, FakeClockLoop], Coroutine[Any, Any, None]]) -> None:
    """Plays a scene beside a running recollection, under a clock that jumps."""
    loop = FakeClockLoop()

    async def run() -> None:
        runtime = Runtime(loop)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(containerd, "list_all", runtime.list_all)
            task = asyncio.create_task(runtime.recollection.run())
            await turns()
            try:
                await scene(runtime, loop)
                assert not task.done()
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    try:
        loop.run_until_complete(run())
    finally:
        loop.close()


async def turns() -> None:
    """Lets everything run that can run without time passing."""
    for _ in range(20):
        await asyncio.sleep(0)


def unavailable() -> grpc.aio.AioRpcError:
    """What containerd says before it is initialized."""
    return grpc.aio.AioRpcError(
        grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata()
    )


def test_nothing_is_asked_before_the_runtime_is_reached() -> None:
    async def scene(runtime: Runtime, loop: FakeClockLoop) -> None:
        assert runtime.asked_s == []
        runtime.channel.become(READY)
        await turns()
        assert runtime.registry.complete
        assert runtime.connections == 1
        assert runtime.registry.of_container("c1").pod == "shop/web"

    play(scene)


@pytest.mark.parametrize("flight", [(FAILED, CONNECTING), (CONNECTING, READY), (READY,)])
def test_each_new_connection_is_noticed_however_short_the_loss(
    flight: tuple[grpc.ChannelConnectivity, ...],
) -> None:
    async def scene(runtime: Runtime, loop: FakeClockLoop) -> None:
        runtime.channel.become(READY)
        await turns()
        runtime.channel.become(*flight)
        if flight[-1] is not READY:
            await turns()
            assert not runtime.registry.complete
            assert not runtime.recollection.connected
            runtime.channel.become(READY)
        await turns()
        assert runtime.connections == 2
        assert len(runtime.asked_s) == 2
        assert runtime.registry.complete

    play(scene)


@pytest.mark.parametrize("failure", [unavailable(), InvalidMessage("no such message")])
def test_a_failed_rebuild_is_tried_again_ever_more_slowly(failure: Exception) -> None:
    async def scene(runtime: Runtime, loop: FakeClockLoop) -> None:
        runtime.failure = failure
        runtime.channel.become(READY)
        await asyncio.sleep(60)
        pauses = [b - a for a, b in zip(runtime.asked_s, runtime.asked_s[1:], strict=False)]
        assert pauses == sorted(pauses)
        assert pauses[0] == pytest.approx(0.2)
        assert pauses[-1] == pytest.approx(RETRY_LAST_S)
        runtime.failure = None
        await asyncio.sleep(RETRY_LAST_S + 0.01)
        assert runtime.registry.complete

    play(scene)


def test_a_runtime_that_comes_back_is_asked_at_once_and_not_when_the_next_try_is_due() -> None:
    async def scene(runtime: Runtime, loop: FakeClockLoop) -> None:
        runtime.failure = unavailable()
        runtime.channel.become(READY)
        await asyncio.sleep(60)
        runtime.channel.become(FAILED)
        await turns()
        runtime.failure = None
        runtime.channel.become(READY)
        back_s = loop.time()
        await turns()
        assert runtime.registry.complete
        assert runtime.asked_s[-1] == back_s

    play(scene)


def test_calls_wait_for_a_rebuild_under_way() -> None:
    async def scene(runtime: Runtime, loop: FakeClockLoop) -> None:
        runtime.delay_s = 0.5
        runtime.channel.become(READY)
        await turns()
        began_s = loop.time()
        await runtime.recollection.settled(2.0)
        assert runtime.registry.complete
        assert loop.time() - began_s == pytest.approx(0.5)

    play(scene)


def test_calls_do_not_wait_where_nothing_can_be_listed() -> None:
    async def scene(runtime: Runtime, loop: FakeClockLoop) -> None:
        runtime.channel.become(FAILED)
        await turns()
        began_s = loop.time()
        await runtime.recollection.settled(2.0)
        assert loop.time() == began_s
        assert not runtime.registry.complete

    play(scene)


def test_calls_wait_a_bounded_time_for_lists_that_hang_and_the_next_ones_not_at_all() -> None:
    async def scene(runtime: Runtime, loop: FakeClockLoop) -> None:
        runtime.delay_s = 100.0
        runtime.channel.become(READY)
        await turns()
        began_s = loop.time()
        await runtime.recollection.settled(2.0)
        assert loop.time() - began_s == pytest.approx(2.0)
        await runtime.recollection.settled(2.0)
        assert loop.time() - began_s == pytest.approx(2.0)

    play(scene)


def test_doubt_during_a_rebuild_leads_to_another_one() -> None:
    async def scene(runtime: Runtime, loop: FakeClockLoop) -> None:
        runtime.delay_s = 0.5
        runtime.channel.become(READY)
        await asyncio.sleep(0.25)
        runtime.recollection.doubt()
        await asyncio.sleep(2)
        assert len(runtime.asked_s) == 2
        assert runtime.registry.complete

    play(scene)


def test_what_was_done_past_us_is_learnt_of_in_time() -> None:
    async def scene(runtime: Runtime, loop: FakeClockLoop) -> None:
        runtime.channel.become(READY)
        await asyncio.sleep(recollection.EVERY_S + 1)
        assert len(runtime.asked_s) == 2

    play(scene)
