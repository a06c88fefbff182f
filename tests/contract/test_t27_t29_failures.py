# SPDX-License-Identifier: Apache-2.0
"""T27-T29: our own failures reach nobody who did not ask for us; nothing is decoded or logged that
need not be."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from cri_proto import control_pb2 as pb
from cri_proto import runtime_v1_pb2 as cri
from shim.core.methods import IMAGE, RUNTIME, STREAMING, UNARY
from shim.core.registry import Registry
from shim.core.rules import RuleBook
from shim.rules.hold import Hold
from shim.rules.remember import Remember
from tests.contract.canned import (
    CONTAINER_ID,
    run_request,
    sandbox,
    sandbox_list,
)
from tests.contract.client import connect, unary, until
from tests.contract.fake_runtime import FakeRuntime
from tests.contract.scripts import Delay, Fail, Hang, Reply
from tests.contract.shim_process import accepts
from tests.fix_contract import Rig, ShimFactory

OK = grpc.StatusCode.OK
INTERNAL = grpc.StatusCode.INTERNAL
RUN = RUNTIME + "RunPodSandbox"
CREATE = RUNTIME + "CreateContainer"
STOP = RUNTIME + "StopContainer"
REMOVE = RUNTIME + "RemoveContainer"
EXEC = RUNTIME + "ExecSync"
PULL = IMAGE + "PullImage"
ASKS = {"podferry.dev/managed": "true"}
STOP_REQUEST = cri.StopContainerRequest(container_id=CONTAINER_ID).SerializeToString()
REMOVE_REQUEST = cri.RemoveContainerRequest(container_id=CONTAINER_ID).SerializeToString()

Odd = Callable[[str], str]


async def test_t27_broken_rule_is_not_seen_by_a_pod_that_did_not_ask(
    fake: FakeRuntime, shims: ShimFactory, odd: Odd
) -> None:
    """T27: the rule edits and then raises: the original bytes go on, the reply comes back."""
    shim = await shims.make(fake.path, module=odd("break")).start()
    async with connect(shim.socket) as channel:
        for annotations in ({}, {"podferry.dev/managed": "false"}, {"other.io/key": "x"}):
            fake.calls.clear()
            request = run_request(**annotations).SerializeToString()
            assert (await unary(channel, RUN, request)).code is OK
            assert fake.of(RUN)[0].first_request == request
        assert (await unary(channel, STOP, STOP_REQUEST)).code is OK
        unknown = cri.StopContainerRequest(container_id="ee" * 32).SerializeToString()
        assert (await unary(channel, STOP, unknown)).code is OK
    async with shim.stub() as control:
        status = await control.Status(pb.StatusRequest())
    failed = {rule.rule: rule.outcomes.get("failed", 0) for rule in status.rules}
    assert failed["break"] >= 5
    assert "rule failed" in shim.log


async def test_t27_broken_rule_is_told_to_a_pod_that_asked(
    fake: FakeRuntime, shims: ShimFactory, odd: Odd
) -> None:
    """T27: an explicit error that names the rule, the pod and the way out; nothing is done."""
    fake.on(RUNTIME + "ListPodSandbox", Reply(sandbox_list(sandbox(**ASKS))))
    shim = await shims.make(fake.path, module=odd("break")).start()
    async with connect(shim.socket) as channel:
        for method, request, pod in (
            (RUN, run_request("web-0", **ASKS).SerializeToString(), "shop/web-0"),
            (RUN, run_request("web-1", **{"podferry.dev/migration": "m-1"}).SerializeToString(),
             "shop/web-1"),
            (STOP, STOP_REQUEST, "shop/basket-0"),
        ):  # fmt: skip
            seen = await unary(channel, method, request)
            assert seen.code is INTERNAL
            for part in ("rule break", pod, "podferry.dev/managed"):
                assert part in seen.text
            assert "secret-of-the-rule" not in seen.text
            assert not fake.of(method)


async def test_t27_rule_that_breaks_on_the_outcome_costs_nobody_the_outcome(
    fake: FakeRuntime, shims: ShimFactory, odd: Odd
) -> None:
    """T27: the runtime has acted: its reply and its error arrive as they are, also if asked for."""
    fake.on(RUNTIME + "ListPodSandbox", Reply(sandbox_list(sandbox(**ASKS))))
    fake.on(REMOVE, Reply(b"\xfa\x7c\x01x"))
    fake.on(REMOVE, Fail(grpc.StatusCode.NOT_FOUND, "gone"), times=1)
    shim = await shims.make(fake.path, module=odd("break")).start()
    async with connect(shim.socket) as channel:
        seen = await unary(channel, REMOVE, REMOVE_REQUEST)
        assert (seen.code, seen.text) == (grpc.StatusCode.NOT_FOUND, "gone")
        seen = await unary(channel, REMOVE, REMOVE_REQUEST)
        assert (seen.code, seen.replies) == (OK, [b"\xfa\x7c\x01x"])
    assert len(fake.of(REMOVE)) == 2


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("podferry.dev/managed", "yes", "'true' or 'false'"),
        ("podferry.dev/managed", "", "'true' or 'false'"),
        ("podferry.dev/migration", "", "name of a migration"),
        ("podferry.dev/migration", "two words", "name of a migration"),
    ],
)
async def test_t27_malformed_annotation_is_refused(
    rig: Rig, key: str, value: str, wanted: str
) -> None:
    """T27: the documented, explicit error names pod, key, value and what was wanted."""
    seen = await unary(rig.through, RUN, run_request(**{key: value}).SerializeToString())
    assert seen.code is grpc.StatusCode.INVALID_ARGUMENT
    for part in ("shop/basket-1", key, repr(value), wanted):
        assert part in seen.text
    assert not rig.fake.of(RUN)


async def test_t27_unknown_annotation_of_ours_passes(rig: Rig) -> None:
    """T27: a pod written for a newer release is started, with a word in the log."""
    request = run_request(**{"podferry.dev/of-the-future": "x"}).SerializeToString()
    assert (await unary(rig.through, RUN, request)).code is OK
    assert "podferry.dev/of-the-future" in rig.shim.log


RULED = sorted(RuleBook([Remember(Registry()), Hold()]).methods)


@pytest.mark.parametrize("method", RULED, ids=lambda name: name.rpartition("/")[2])
async def test_t27_undecodable_messages_pass(rig: Rig, method: str) -> None:
    """T27: bytes that are no message go to the runtime, whose business they are; and back."""
    broken = b"\x0a\xff\xff\xff\x07too short"
    rig.fake.on(method, Reply(broken))
    seen = await unary(rig.through, method, broken)
    assert (seen.code, seen.replies) == (OK, [broken])
    assert rig.fake.of(method)[0].first_request == broken


async def test_t27_codec_that_fails_lets_the_call_pass(
    fake: FakeRuntime, shims: ShimFactory, odd: Odd
) -> None:
    """T27: even our decoding may be the bug."""
    shim = await shims.make(fake.path, module=odd("nocodec")).start()
    async with connect(shim.socket) as channel:
        request = run_request().SerializeToString()
        assert (await unary(channel, RUN, request)).code is OK
        assert fake.of(RUN)[0].first_request == request


@pytest.mark.parametrize("lists", ["garbage", "failing", "hanging"])
async def test_t27_memory_that_cannot_be_rebuilt(
    fake: FakeRuntime, shims: ShimFactory, lists: str
) -> None:
    """T27: whatever the runtime's lists are, calls pass and the service lives."""
    script = {
        "garbage": Reply(b"\x0a\xff\xff\xff\x07too short"),
        "failing": Fail(grpc.StatusCode.UNKNOWN, "cannot list"),
        "hanging": Hang(),
    }[lists]
    fake.on(RUNTIME + "ListPodSandbox", script)
    shim = await shims.make(fake.path).start()
    async with connect(shim.socket) as channel:
        for _ in range(20):  # the first may wait for the lists, the others must not
            assert (await unary(channel, STOP, STOP_REQUEST, timeout_s=10)).code is OK
        assert (await unary(channel, RUN, run_request().SerializeToString())).code is OK
        assert shim.log.count("not rebuilt in time") == (lists == "hanging")
        fake.reset()
        if lists != "hanging":  # that one ends with its own timeout
            await until(lambda: "registry rebuilt" in shim.log, what="memory comes back")
    assert shim.popen and shim.popen.poll() is None


@pytest.mark.parametrize("where", ["full-disk", "closed-pipe"])
async def test_t27_log_that_cannot_be_written(
    fake: FakeRuntime, shims: ShimFactory, where: str
) -> None:
    """T27: a full disk or a dead log reader under stderr costs no call."""
    shim = shims.make(fake.path)
    if where == "full-disk":
        stderr = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, stderr = os.pipe()
        os.close(reader)
    shim.spawn(stderr=stderr)
    os.close(stderr)
    await until(lambda: accepts(shim.socket), what="it serves")
    fake.on(STOP, Fail(grpc.StatusCode.UNKNOWN, "cannot"), times=1)
    async with connect(shim.socket) as channel:
        assert (await unary(channel, STOP, STOP_REQUEST)).text == "cannot"
        for _ in range(20):
            assert (await unary(channel, STOP, STOP_REQUEST)).code is OK


async def test_t28_nothing_is_decoded_without_a_rule(
    fake: FakeRuntime, shims: ShimFactory, odd: Odd
) -> None:
    """T28: with a codec that cannot be used, no method without a rule notices."""
    shim = await shims.make(fake.path, module=odd("nocodec")).start()
    fake.on("*", Reply(b"\x0a\x01x"))
    async with connect(shim.socket) as channel:
        for method in sorted((UNARY | STREAMING) - set(RULED)):
            assert (await unary(channel, method, b"\x0a\x01x")).code is OK
    assert "not decodable" not in shim.log, "the codec was tried"
    for name in ("Version", "Status", "ListContainers", "ListPodSandbox", "ContainerStats"):
        assert RUNTIME + name not in RULED, f"{name} is hot and must stay bytes"
    assert not [method for method in RULED if method.startswith(IMAGE)]


SECRET = "hunter2"


async def test_t29_nothing_secret_is_logged(own_rig: Rig) -> None:
    """T29: credentials, environment, exec output and metadata, at the debug level, in successes,
    failures, cancelled, held, undecodable and refused calls."""
    rig, fake = own_rig, own_rig.fake
    metadata = (("authorization", f"Bearer {SECRET}"), ("x-secret-bin", SECRET.encode()))
    pull = cri.PullImageRequest(
        auth=cri.AuthConfig(username=SECRET, password=SECRET, auth=SECRET)
    ).SerializeToString()
    create = cri.CreateContainerRequest(
        pod_sandbox_id="5a" * 32,
        config=cri.ContainerConfig(
            metadata=cri.ContainerMetadata(name="web"),
            envs=[cri.KeyValue(key="PASSWORD", value=SECRET.encode())],
            args=[SECRET],
        ),
    ).SerializeToString()
    execute = cri.ExecSyncRequest(
        container_id=CONTAINER_ID, cmd=["sh", "-c", SECRET]
    ).SerializeToString()
    # Decoded as any other reply, the output's fields mean an id; those get it in a field unknown.
    output = cri.ExecSyncResponse(stderr=SECRET.encode()).SerializeToString()
    requests = {PULL: pull, CREATE: create, EXEC: execute}
    seen = []
    async with rig.shim.stub() as control:
        watching = control.WatchCalls(pb.WatchCallsRequest())
        watched: list[str] = []

        async def watch() -> None:
            with contextlib.suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
                async for call in watching:
                    watched.append(str(call))

        watcher = asyncio.create_task(watch())
        for script in (
            Reply(output + b"\xfa\x7c\x07" + SECRET.encode()),
            Reply(SECRET.encode()),  # undecodable
            Fail(grpc.StatusCode.UNKNOWN, f"failed: {SECRET}", (("x-why", SECRET),)),
            Fail(grpc.StatusCode.INTERNAL, SECRET, read_first=False),
            Delay(5.0),
        ):
            for method, request in requests.items():
                fake.on(method, script)
                for data in (request, SECRET.encode() + b"\xff"):
                    seen.append(
                        await unary(rig.through, method, data, metadata=metadata, timeout_s=0.3)
                    )
        bad = {"podferry.dev/managed": SECRET}
        refused = await unary(
            rig.through, RUN, run_request(**bad).SerializeToString(), metadata=metadata
        )
        assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
        stream = rig.through.unary_stream(RUNTIME + "GetContainerEvents")(pull)
        await stream.code()
        await until(lambda: len(watched) > 60, what="the calls are watched")
        status = str(await control.Status(pb.StatusRequest()))
        watching.cancel()
        await watcher
    assert len(seen) == 30
    assert {answer.code for answer in seen} >= {OK, grpc.StatusCode.UNKNOWN, INTERNAL}
    log = rig.shim.log
    assert "method=PullImage" in log and "method=CreateContainer" in log
    for place, text in (("log", log), ("top", "".join(watched)), ("status", status)):
        assert SECRET not in text, f"in the {place}: " + next(
            line for line in text.splitlines() if SECRET in line
        )


async def test_t29_a_failing_rule_does_not_tell_what_it_saw(
    fake: FakeRuntime, shims: ShimFactory, odd: Odd
) -> None:
    """T29: the error of a rule may quote a message; the log names its kind and place only."""
    shim = await shims.make(fake.path, module=odd("break")).start()
    async with connect(shim.socket) as channel:
        await unary(channel, RUN, run_request().SerializeToString())
    assert "KeyError" in shim.log and "odd_shim.py" in shim.log
    assert "secret-of-the-rule" not in shim.log


def test_t27_settings_file_of_a_test_is_read(home: Path, shims: ShimFactory) -> None:
    """The fixture's own promise: the service would refuse a settings file it does not know."""
    shim = shims.make(home / "nobody.sock")
    shim.config.write_text("[cri]\nlisten = 5\n")
    popen = shim.spawn()
    assert popen.wait(20) == 1
    assert "key cri.listen" in shim.log
    assert "it is 5" in shim.log
