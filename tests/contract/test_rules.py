# SPDX-License-Identifier: Apache-2.0
"""The hold rule, the settle rule and the memory, seen from the two sockets of the service."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import grpc
import pytest

from cri_proto import control_pb2 as pb
from cri_proto import runtime_v1_pb2 as cri
from shim.core.methods import RUNTIME
from tests.contract.canned import CONTAINER, CONTAINER_ID, POD, SANDBOX_ID, run_request, sandbox
from tests.contract.client import Observation, connect, unary, until
from tests.contract.fake_runtime import FakeRuntime
from tests.contract.scripts import Delay, Fail, Reply
from tests.contract.shim_process import ROOT, ShimProcess
from tests.fix_contract import Rig, ShimFactory

OK = grpc.StatusCode.OK
STOP = RUNTIME + "StopContainer"
START = RUNTIME + "StartContainer"
RUN = RUNTIME + "RunPodSandbox"
STOP_REQUEST = cri.StopContainerRequest(container_id=CONTAINER_ID).SerializeToString()
START_REQUEST = cri.StartContainerRequest(container_id=CONTAINER_ID).SerializeToString()


async def _hold(shim: ShimProcess, *methods: str, **wishes: object) -> str:
    request = {"pod": POD, "at_most_s": 60.0, **wishes}
    async with shim.stub() as control:
        return (await control.Hold(pb.HoldRequest(methods=methods, **request))).hold_id  # type: ignore[no-any-return]


async def _release(shim: ShimProcess, hold_id: str) -> int:
    async with shim.stub() as control:
        return (await control.Release(pb.ReleaseRequest(hold_id=hold_id))).released  # type: ignore[no-any-return]


async def _status(shim: ShimProcess) -> pb.StatusResponse:
    async with shim.stub() as control:
        return await control.Status(pb.StatusRequest())


async def _waiting(shim: ShimProcess, count: int) -> None:
    for _ in range(500):
        status = await _status(shim)
        if sum(hold.waiting for hold in status.holds) == count:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"not {count} calls wait: {status.holds}")


async def test_held_call_waits_until_released(rig: Rig) -> None:
    """Only the pod, the container and the method that were named wait; then they go on."""
    hold_id = await _hold(rig.shim, "StopContainer", container=CONTAINER)
    held = [asyncio.create_task(unary(rig.through, STOP, STOP_REQUEST)) for _ in range(3)]
    await _waiting(rig.shim, 3)
    assert (await unary(rig.through, START, START_REQUEST)).code is OK
    other = cri.StopContainerRequest(container_id="77" * 32).SerializeToString()
    assert (await unary(rig.through, STOP, other)).code is OK
    assert [seen.first_request for seen in rig.fake.of(STOP)] == [other]
    assert await _release(rig.shim, hold_id) == 3
    assert {seen.code for seen in await asyncio.gather(*held)} == {OK}
    assert [seen.first_request for seen in rig.fake.of(STOP)[1:]] == [STOP_REQUEST] * 3
    assert not (await _status(rig.shim)).holds


async def test_hold_expires(rig: Rig) -> None:
    """A hold that nobody releases ends by itself."""
    await _hold(rig.shim, "StopContainer", at_most_s=0.3)
    held = asyncio.create_task(unary(rig.through, STOP, STOP_REQUEST))
    await _waiting(rig.shim, 1)
    assert not rig.fake.of(STOP)
    assert (await held).code is OK
    assert not (await _status(rig.shim)).holds


async def test_caller_whose_deadline_ends_first(rig: Rig) -> None:
    """Its call ends there and is never made; the hold stays."""
    hold_id = await _hold(rig.shim, "StopContainer")
    seen = await unary(rig.through, STOP, STOP_REQUEST, timeout_s=0.2)
    assert seen.code is grpc.StatusCode.DEADLINE_EXCEEDED
    await _waiting(rig.shim, 0)
    assert await _release(rig.shim, hold_id) == 0
    assert not rig.fake.of(STOP)


async def test_caller_that_goes_away(rig: Rig) -> None:
    """The same for a caller who cancels."""
    hold_id = await _hold(rig.shim, "StopContainer")
    call = rig.through.unary_unary(STOP)(STOP_REQUEST)
    await _waiting(rig.shim, 1)
    call.cancel()
    await _waiting(rig.shim, 0)
    await _release(rig.shim, hold_id)
    assert not rig.fake.of(STOP)


async def test_deadline_behind_a_hold_is_what_is_left(rig: Rig) -> None:
    """The backend gets the caller's remaining time, the waiting subtracted."""
    hold_id = await _hold(rig.shim, "StopContainer")
    held = asyncio.create_task(unary(rig.through, STOP, STOP_REQUEST, timeout_s=30))
    await _waiting(rig.shim, 1)
    await asyncio.sleep(0.5)
    await _release(rig.shim, hold_id)
    assert (await held).code is OK
    left_s = rig.fake.of(STOP)[0].time_remaining_s
    assert left_s is not None
    assert left_s < 29.8


async def test_hold_by_pod_covers_a_sandbox_that_is_being_made(rig: Rig) -> None:
    """RunPodSandbox names its pod itself; calls by the sandbox's id are the same pod."""
    hold_id = await _hold(rig.shim, "RunPodSandbox", "StopPodSandbox", pod="shop/late-0")
    held = asyncio.create_task(unary(rig.through, RUN, run_request("late-0").SerializeToString()))
    await _waiting(rig.shim, 1)
    assert (await unary(rig.through, RUN, run_request("late-1").SerializeToString())).code is OK
    assert await _release(rig.shim, hold_id) == 1
    assert (await held).code is OK


async def test_two_holds_on_one_call(rig: Rig) -> None:
    """It waits for both."""
    first = await _hold(rig.shim, "StopContainer")
    second = await _hold(rig.shim, "StopContainer", container=CONTAINER)
    held = asyncio.create_task(unary(rig.through, STOP, STOP_REQUEST))
    await _waiting(rig.shim, 1)
    await _release(rig.shim, first)
    await _waiting(rig.shim, 1)
    assert not rig.fake.of(STOP)
    await _release(rig.shim, second)
    assert (await held).code is OK


@pytest.mark.parametrize(
    ("wishes", "words"),
    [
        ({"pod": "no-namespace"}, "'namespace/name'"),
        ({"methods": ["ListContainers"]}, "cannot hold ListContainers"),
        ({"methods": []}, "none given"),
        ({"at_most_s": 0.0}, "more than 0"),
        ({"at_most_s": float("nan")}, "more than 0"),
        ({"at_most_s": 1e9}, "at most 3600"),
    ],
)
async def test_bad_hold_is_refused(rig: Rig, wishes: dict[str, object], words: str) -> None:
    """With the value and what was wanted."""
    request = {"pod": POD, "methods": ["StopContainer"], "at_most_s": 1.0, **wishes}
    async with rig.shim.stub() as control:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await control.Hold(pb.HoldRequest(**request))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert words in (refused.value.details() or "")


async def test_hold_and_release_by_command(rig: Rig) -> None:
    """The command line does the same, and says what it did."""

    async def podferry(*arguments: str) -> tuple[int, str]:
        ended = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "shim.cli.main", "--config", str(rig.shim.config), *arguments],
            cwd=ROOT, capture_output=True, text=True, timeout=30,
        )  # fmt: skip
        return ended.returncode, (ended.stdout + ended.stderr).strip()

    status, hold_id = await podferry("hold", POD, "--call", "StopContainer")
    assert status == 0
    held = asyncio.create_task(unary(rig.through, STOP, STOP_REQUEST))
    await _waiting(rig.shim, 1)
    assert await podferry("release", hold_id) == (0, "1 waiting calls released")
    assert (await held).code is OK
    status, words = await podferry("release", hold_id)
    assert status == 1
    assert f"no hold {hold_id!r}" in words


async def test_calls_wait_for_the_lists_at_start(fake: FakeRuntime, shims: ShimFactory) -> None:
    """Settle: a call by id right after the start is told apart, since the lists come first."""
    listed = fake.of
    fake.on(
        RUNTIME + "ListContainers",
        Delay(0.6, Reply(cri.ListContainersResponse().SerializeToString())),
    )
    shim = await shims.make(fake.path).start()
    async with connect(shim.socket) as channel:
        assert (await unary(channel, STOP, STOP_REQUEST)).code is OK
        assert (await unary(channel, RUNTIME + "Version")).code is OK
    lists, stop = listed(RUNTIME + "ListContainers")[0], listed(STOP)[0]
    assert lists.ended == "ok"
    assert lists.ended_s <= stop.begun_s


async def test_calls_wait_for_the_lists_after_the_runtimes_return(
    own_rig: Rig,
) -> None:
    """Settle: the same when the runtime has been away, and it may have other pods now."""
    rig, shim = own_rig, own_rig.shim
    await unary(rig.through, STOP, STOP_REQUEST)
    await rig.fake.stop()
    await until(lambda: "runtime connection lost" in shim.log, what="the loss is noticed")
    rig.fake.reset()
    other = sandbox()
    other.metadata.name = "other-0"
    rig.fake.on(
        RUNTIME + "ListPodSandbox",
        Delay(0.5, Reply(cri.ListPodSandboxResponse(items=[other]).SerializeToString())),
    )
    hold_id = await _hold(shim, "StopContainer", pod="shop/other-0")
    await rig.fake.start()
    calls: list[asyncio.Task[Observation]] = []
    while "registry rebuilt" not in shim.log.rpartition("connection lost")[2]:
        assert len(calls) < 1000, "the lists never come"
        calls.append(asyncio.create_task(unary(rig.through, STOP, STOP_REQUEST)))
        await asyncio.sleep(0.01)
    early = [call for call in calls if call.done()]
    late = [call for call in calls if not call.done()]
    assert late, "no call waited for the lists"
    await _waiting(shim, len(late))
    assert await _release(shim, hold_id) == len(late)
    assert {(await call).code for call in late} == {OK}
    assert {(await call).code for call in early} <= {grpc.StatusCode.UNAVAILABLE, OK}


async def test_lists_that_fail_keep_nobody_waiting(fake: FakeRuntime, shims: ShimFactory) -> None:
    """Settle: when it is known that nothing can be known, calls go on; and later it is known."""
    fake.on(RUNTIME + "ListContainers", Fail(grpc.StatusCode.UNKNOWN, "broken"), times=3)
    shim = await shims.make(fake.path).start()
    async with connect(shim.socket) as channel:
        assert (await unary(channel, STOP, STOP_REQUEST)).code is OK
    await until(lambda: "registry rebuilt" in shim.log, what="a later attempt succeeds")
    status = await _status(shim)
    assert (status.sandboxes, status.containers, status.registry_complete) == (1, 1, True)


async def test_memory_follows_the_calls(own_rig: Rig) -> None:
    """Remember: made, named in the log, and forgotten again; failed calls change nothing."""
    rig = own_rig
    await until(lambda: "registry rebuilt" in rig.shim.log, what="the lists are read")
    await unary(rig.through, RUN, run_request("web-0").SerializeToString())
    create = cri.CreateContainerRequest(
        pod_sandbox_id="ab" * 32,
        config=cri.ContainerConfig(metadata=cri.ContainerMetadata(name="web")),
    ).SerializeToString()
    await unary(rig.through, RUNTIME + "CreateContainer", create)
    rig.fake.on(RUNTIME + "CreateContainer", Fail(grpc.StatusCode.UNKNOWN, "no"))
    await unary(rig.through, RUNTIME + "CreateContainer", create)
    status = await _status(rig.shim)
    assert (status.sandboxes, status.containers) == (2, 2)
    start = cri.StartContainerRequest(container_id="cdcd").SerializeToString()  # shortened
    await unary(rig.through, START, start)
    line = [text for text in rig.shim.log.splitlines() if "method=StartContainer" in text][-1]
    assert "pod=shop/web-0 uid=uid-of-web-0" in line and "container=web" in line
    remove = cri.RemovePodSandboxRequest(pod_sandbox_id="ab" * 32).SerializeToString()
    await unary(rig.through, RUNTIME + "RemovePodSandbox", remove)
    status = await _status(rig.shim)
    assert (status.sandboxes, status.containers) == (1, 1)


async def test_container_made_in_a_removed_sandbox_is_forgotten_by_id(own_rig: Rig) -> None:
    """Remember: RemoveContainer by a shortened id, as crictl does."""
    await until(lambda: "registry rebuilt" in own_rig.shim.log, what="the lists are read")
    remove = cri.RemoveContainerRequest(container_id=CONTAINER_ID[:12]).SerializeToString()
    assert (await unary(own_rig.through, RUNTIME + "RemoveContainer", remove)).code is OK
    assert (await _status(own_rig.shim)).containers == 0
    remove = cri.RemovePodSandboxRequest(pod_sandbox_id=SANDBOX_ID[:12]).SerializeToString()
    assert (await unary(own_rig.through, RUNTIME + "RemovePodSandbox", remove)).code is OK
    assert (await _status(own_rig.shim)).sandboxes == 0
