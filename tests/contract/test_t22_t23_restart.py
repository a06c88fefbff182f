# SPDX-License-Identifier: Apache-2.0
"""T22-T23: planned restarts lose nothing; a killed service is back within a second."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import grpc
import pytest

from cri_proto import control_pb2 as pb
from cri_proto import runtime_v1_pb2 as cri
from shim.core.methods import IMAGE, RUNTIME
from tests.contract.canned import CONTAINER, CONTAINER_ID, POD
from tests.contract.client import best_of, connect, crowding, unary, until
from tests.contract.fake_runtime import FakeRuntime
from tests.contract.scripts import Delay, Events, Feed, Hang, Reply
from tests.contract.shim_process import ShimProcess, accepts
from tests.contract.watcher import watched
from tests.fix_contract import Rig, ShimFactory

OK = grpc.StatusCode.OK
VERSION = RUNTIME + "Version"
STOP = RUNTIME + "StopContainer"
STREAM = RUNTIME + "StreamContainers"
EVENTS = RUNTIME + "GetContainerEvents"
STOP_REQUEST = cri.StopContainerRequest(container_id=CONTAINER_ID).SerializeToString()
CALLERS = 16
BACK_S = 1.0
RESTART_SEC_S = 0.1  # RestartSec= of the systemd unit


@dataclass
class Load:
    """Callers in a closed loop, and what became of their calls."""

    made: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)

    @contextlib.asynccontextmanager
    async def on(self, shim: ShimProcess) -> AsyncIterator[Load]:
        """Calls for the length of a block: 16 callers, most on two lasting connections as kubelet
        has them, some with a new connection for each call as crictl does."""
        ended = asyncio.Event()
        async with connect(shim.socket) as first, connect(shim.socket) as second:
            callers = [
                asyncio.create_task(self._call(number, (first, second), shim, ended))
                for number in range(CALLERS)
            ]
            try:
                yield self
            finally:
                ended.set()
                await asyncio.gather(*callers)

    async def _call(
        self,
        number: int,
        lasting: tuple[grpc.aio.Channel, ...],
        shim: ShimProcess,
        ended: asyncio.Event,
    ) -> None:
        for turn in itertools.count(number):
            if ended.is_set():
                return
            if number % 8 == 7:
                async with connect(shim.socket) as fresh:
                    await self._one(turn, fresh)
            else:
                await self._one(turn, lasting[number % 2])

    async def _one(self, turn: int, channel: grpc.aio.Channel) -> None:
        method = (VERSION, STOP, STREAM, RUNTIME + "ListContainers")[turn % 4]
        try:
            if method == STREAM:
                replies = [m async for m in channel.unary_stream(STREAM)(b"", timeout=20)]
                assert len(replies) == 3
            else:
                request = STOP_REQUEST if method == STOP else b""
                await channel.unary_unary(method)(request, timeout=20)
            self.made[method] += 1
        except (grpc.aio.AioRpcError, AssertionError) as error:
            self.lost.append(f"{method}: {error!r}")


async def test_t22_three_handovers_lose_no_call(own_rig: Rig) -> None:
    """T22: 16 callers; no call fails, the path is never away, each old process ends by itself."""
    shim, fake = own_rig.shim, own_rig.fake
    fake.on(STREAM, Events(3))
    load = Load()
    inode = shim.socket.lstat().st_ino
    with watched(shim.socket) as sights:
        async with load.on(shim):
            old = await shim.serving()
            for _ in range(3):
                begun = load.made.total()
                new = await shim.handover()
                assert new != old
                assert shim.socket.lstat().st_ino != inode
                inode = shim.socket.lstat().st_ino
                await until(
                    lambda pid=old: not shim.is_alive(pid),  # type: ignore[misc]
                    what="the old process ends", within_s=30, step_s=0.05,
                )  # fmt: skip
                assert shim.socket.lstat().st_ino == inode, "the old process touched the path"
                old = new
                done = load.made.total()
                await until(lambda n=done: load.made.total() > n + 50, what="calls go on")  # type: ignore[misc]
                assert done > begun
    assert load.lost == []
    assert load.made.total() > 200
    # In order and each unlike the one before; the file system may give a number out again.
    assert len(sights.seen) == len(sights.present) == 4, f"the path was away: {sights.seen}"
    assert [p.pid for p in shim.processes()] == [old]
    # A call is made once: what the callers counted is what the backend saw.
    assert len(fake.of(STOP)) == load.made[STOP]


async def test_t22_long_call_ends_in_the_old_process(own_rig: Rig) -> None:
    """T22: an image pull of four seconds outlives its process's retirement."""
    shim, fake = own_rig.shim, own_rig.fake
    fake.on(IMAGE + "PullImage", Delay(4.0, Reply(b"pulled")))
    pull = asyncio.create_task(unary(own_rig.through, IMAGE + "PullImage"))
    await until(lambda: fake.of(IMAGE + "PullImage"), what="the pull begins")
    old = await shim.serving()
    await shim.handover()
    assert (await pull).replies == [b"pulled"]
    await until(lambda: not shim.is_alive(old), what="the old process ends")
    assert len(fake.of(IMAGE + "PullImage")) == 1


async def test_t22_event_stream_across_a_handover(own_rig: Rig) -> None:
    """T22: an open event stream goes on until the old process ends, then ends once and not OK."""
    shim, fake = own_rig.shim, own_rig.fake
    feed = Feed()
    fake.on(EVENTS, feed)
    call = own_rig.through.unary_stream(EVENTS)(b"")
    await until(lambda: feed.queues, what="the stream opens")
    old = await shim.serving()
    await shim.handover()
    feed.push(b"during")
    assert await asyncio.wait_for(call.read(), 5) == b"during"
    assert await asyncio.wait_for(call.code(), 20) is not OK
    await until(lambda: not feed.queues, what="the subscription ends at the runtime too")
    again = own_rig.through.unary_stream(EVENTS)(b"")
    await until(lambda: feed.queues, what="the next stream opens")
    feed.push(b"after")
    assert await asyncio.wait_for(again.read(), 5) == b"after"
    again.cancel()
    await until(lambda: not shim.is_alive(old), what="the old process ends")
    assert len(fake.of(EVENTS)) == 2


@pytest.mark.parametrize("how", ["release", "expiry"])
async def test_t22_held_call_across_a_handover(own_rig: Rig, how: str) -> None:
    """T22: a hold moves to the new process; a call that waits in the old one is let go with it."""
    shim, fake = own_rig.shim, own_rig.fake
    async with shim.stub() as control:
        held = await control.Hold(
            pb.HoldRequest(pod=POD, container=CONTAINER, methods=["StopContainer"],
                           at_most_s=60 if how == "release" else 3)
        )  # fmt: skip
    early = asyncio.create_task(unary(own_rig.through, STOP, STOP_REQUEST))
    await _waiting(shim, 1)
    old = await shim.serving()
    await shim.handover()
    async with connect(shim.socket) as channel:
        late = asyncio.create_task(unary(channel, STOP, STOP_REQUEST))
        await _waiting(shim, 1)
        assert not fake.of(STOP)
        if how == "release":
            async with shim.stub() as control:
                answer = await control.Release(pb.ReleaseRequest(hold_id=held.hold_id))
            assert answer.released == 2
        assert [seen.code for seen in await asyncio.gather(early, late)] == [OK, OK]
    assert len(fake.of(STOP)) == 2
    await until(lambda: not shim.is_alive(old), what="the old process ends", within_s=20)


async def _waiting(shim: ShimProcess, count: int) -> None:
    """Waits until so many calls wait for holds in the process that serves."""
    for _ in range(500):
        async with shim.stub() as control:
            status = await control.Status(pb.StatusRequest())
        if sum(hold.waiting for hold in status.holds) == count:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"not {count} calls wait: {status.holds}")


@pytest.mark.parametrize("reason", ["broken-settings", "too-slow"])
async def test_t22_failed_handover_leaves_the_old_one_serving(own_rig: Rig, reason: str) -> None:
    """T22: a successor that dies at start, or takes too long: no call lost, and it is said why."""
    shim, fake = own_rig.shim, own_rig.fake
    fake.on(STREAM, Events(3))
    settings = shim.config.read_text()
    if reason == "broken-settings":
        shim.config.write_text(settings + "[metrics]\nlisten = 1\n")
    else:
        await until(lambda: "registry rebuilt" in shim.log, what="the first lists are read")
        fake.on(RUNTIME + "ListPodSandbox", Hang())
    old = await shim.serving()
    inode = shim.socket.lstat().st_ino
    load = Load()
    async with load.on(shim), shim.stub() as control:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await control.StartSuccessor(
                pb.StartSuccessorRequest(at_most_s=20 if reason == "broken-settings" else 1.5)
            )
        assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "serves on" in (refused.value.details() or "")
        assert await shim.serving() == old
        await until(lambda: load.made.total() > 100, what="calls go on", within_s=20)
    assert load.lost == []
    assert shim.socket.lstat().st_ino == inode
    assert [p.pid for p in shim.processes()] == [old]
    shim.config.write_text(settings)
    fake.reset()
    assert await shim.handover() != old


async def test_t22_takeover_without_a_service_is_refused(
    fake: FakeRuntime, shims: ShimFactory
) -> None:
    """T22: a successor without a predecessor says so and leaves nothing."""
    shim = shims.make(fake.path)
    popen = shim.spawn("--takeover")
    assert await asyncio.to_thread(popen.wait, 20) == 1
    assert "without --takeover" in shim.log.splitlines()[-1]
    assert shim.traces() == []


async def test_t22_sigterm_finishes_the_calls_under_way(own_rig: Rig) -> None:
    """T22: an ordinary stop: what runs is answered, status 0, no socket left."""
    shim, fake = own_rig.shim, own_rig.fake
    fake.on(STOP, Delay(0.5, Reply()))
    calls = [asyncio.create_task(unary(own_rig.through, STOP, STOP_REQUEST)) for _ in range(8)]
    await until(lambda: len(fake.of(STOP)) == 8, what="the calls are under way")
    os.kill(shim.pid, signal.SIGTERM)
    assert {seen.code for seen in await asyncio.gather(*calls)} == {OK}
    assert shim.popen
    assert await asyncio.to_thread(shim.popen.wait, 20) == 0
    assert shim.traces() == []


class Supervisor:
    """Starts the service again when it has ended, as systemd would.

    Args:
        shim: the service.
    """

    def __init__(self, shim: ShimProcess) -> None:
        self._shim = shim
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            popen = self._shim.popen
            assert popen
            if _has_ended(popen):
                await asyncio.sleep(RESTART_SEC_S)
                self._shim.spawn()
            await asyncio.sleep(0.005)

    async def stop(self) -> None:
        """Starts it no more."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


def _has_ended(popen: subprocess.Popen[bytes]) -> bool:
    return popen.poll() is not None


async def test_t23_killed_service_answers_within_a_second(own_rig: Rig) -> None:
    """T23: kill -9 under load and a supervisor: the gap, what callers hear, what stays behind."""
    shim, fake = own_rig.shim, own_rig.fake
    fake.on(EVENTS, Hang(initial=(("x-up", "1"),)))
    supervisor = Supervisor(shim)
    heard: Counter[grpc.StatusCode] = Counter()
    try:

        async def gap_s() -> float:
            events = own_rig.through.unary_stream(EVENTS)(b"")
            await asyncio.wait_for(events.initial_metadata(), 10)
            open_at_backend = fake.of(EVENTS)[-1]
            os.kill(shim.pid, signal.SIGKILL)
            killed_s = time.monotonic()
            assert await events.code() is grpc.StatusCode.UNAVAILABLE
            while True:
                answer = await unary(own_rig.through, VERSION, timeout_s=5)
                heard[answer.code] += 1
                if answer.code is OK:
                    break
                assert time.monotonic() - killed_s < 20
                await asyncio.sleep(0.005)
            back_s = time.monotonic()
            await until(lambda: open_at_backend.ended == "cancelled", what="its calls end")
            await shim.serving()
            return back_s - killed_s

        bound_s = BACK_S * await crowding()
        assert await best_of(5, bound_s, gap_s) < bound_s
        assert set(heard) <= {OK, grpc.StatusCode.UNAVAILABLE}
    finally:
        await supervisor.stop()
    alive = [process.pid for process in shim.processes()]
    assert alive == [shim.pid]
    private = [path for path in shim.traces() if path.parent.name == "private"]
    assert {path.suffix for path in private} == {f".{shim.pid}"}, "stale private sockets are left"
    assert accepts(shim.socket)


async def test_t23_method_name_that_breaks_grpc(own_rig: Rig) -> None:
    """T23: a method name that is no UTF-8 ends grpc.aio's accepting loop without a word (seen with
    1.85.1); the service notices, ends, and is started again."""
    shim = own_rig.shim
    broken = shim.pid
    supervisor = Supervisor(shim)
    try:
        async with connect(shim.socket) as channel:
            await unary(channel, b"/x/\xff", timeout_s=5)  # type: ignore[arg-type]
        await until(lambda: shim.pid != broken and accepts(shim.socket), what="it is back")
        await shim.serving()
        assert (await unary(own_rig.through, VERSION, timeout_s=5)).code is OK
    finally:
        await supervisor.stop()


async def test_t23_killed_while_a_predecessor_lingers(own_rig: Rig) -> None:
    """T23: the new process is killed while the old one still finishes a call: both come right."""
    shim, fake = own_rig.shim, own_rig.fake
    fake.on(IMAGE + "PullImage", Delay(3.0, Reply(b"pulled")))
    pull = asyncio.create_task(unary(own_rig.through, IMAGE + "PullImage"))
    await until(lambda: fake.of(IMAGE + "PullImage"), what="the pull begins")
    old = await shim.serving()
    new = await shim.handover()
    os.kill(new, signal.SIGKILL)
    await until(lambda: not shim.is_alive(new), what="the new process is gone")
    shim.spawn()
    newest = await shim.serving()
    assert newest not in (old, new)
    assert (await pull).replies == [b"pulled"]
    await until(lambda: not shim.is_alive(old), what="the old process ends", within_s=20)
    async with connect(shim.socket) as channel:
        assert (await unary(channel, VERSION)).code is OK
    assert [p.pid for p in shim.processes()] == [newest]


async def test_t23_successor_dies_and_nobody_follows(own_rig: Rig) -> None:
    """T23: the new process dies before anybody else knew of it: the old one ends, too, so that who
    watches over it acts; it does not linger beside a dead socket."""
    shim, fake = own_rig.shim, own_rig.fake
    fake.on(IMAGE + "PullImage", Hang())
    pull = asyncio.create_task(unary(own_rig.through, IMAGE + "PullImage"))
    await until(lambda: fake.of(IMAGE + "PullImage"), what="the pull begins")
    old = await shim.serving()
    new = await shim.handover()
    os.kill(new, signal.SIGKILL)
    await until(lambda: not shim.is_alive(old), what="the old process ends", within_s=20)
    assert (await pull).code is grpc.StatusCode.UNAVAILABLE
    assert "nobody serves the socket" in shim.log_path.read_text()
    shim.spawn()
    assert await shim.serving() not in (old, new)
