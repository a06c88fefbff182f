# SPDX-License-Identifier: Apache-2.0
"""T24-T26: what kubelet does at start, its fallbacks, streaming URLs, and its event stream."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from cri_proto import runtime_v1_pb2 as cri
from shim.core.methods import IMAGE, RUNTIME
from tests.compare import assert_in_order
from tests.contract.canned import CONTAINER_ID, SANDBOX_ID
from tests.contract.client import connect, unary, until
from tests.contract.fake_runtime import FakeRuntime
from tests.contract.scripts import Events, Fail, Feed, Reply
from tests.fix_contract import Rig, ShimFactory

OK = grpc.StatusCode.OK
UNIMPLEMENTED = grpc.StatusCode.UNIMPLEMENTED
EVENTS = RUNTIME + "GetContainerEvents"


async def _start(runtime: grpc.aio.Channel, image: grpc.aio.Channel) -> None:
    """Kubelet's start: source kubernetes/cri-client, remote_runtime.go and remote_image.go, and
    pkg/kubelet/kubelet.go."""
    answer = await unary(runtime, RUNTIME + "Version", b"\x0a\x050.1.0", timeout_s=120)
    version = cri.VersionResponse.FromString(answer.replies[0])
    assert version.version == "0.1.0"
    assert version.runtime_name and version.runtime_version and version.runtime_api_version
    answer = await unary(image, IMAGE + "ImageFsInfo", timeout_s=120)
    assert cri.ImageFsInfoResponse.FromString(answer.replies[0]).image_filesystems
    answer = await unary(runtime, RUNTIME + "RuntimeConfig", timeout_s=120)
    config = cri.RuntimeConfigResponse.FromString(answer.replies[0])
    assert config.linux.cgroup_driver == cri.CGROUPFS
    answer = await unary(runtime, RUNTIME + "Status", timeout_s=120)
    conditions = cri.StatusResponse.FromString(answer.replies[0]).status.conditions
    assert {c.type for c in conditions if c.status} == {"RuntimeReady", "NetworkReady"}


async def test_t24_start_sequence_on_two_connections(fake: FakeRuntime, shims: ShimFactory) -> None:
    """T24: from the first moment of the service on, twice, as after a restart of kubelet."""
    shim = await shims.make(fake.path).start()
    for _ in range(2):
        async with connect(shim.socket) as runtime, connect(shim.socket) as image:
            await _start(runtime, image)


@pytest.mark.parametrize(
    "authority", ["localhost", "%2Frun%2Fpodferry%2Fpodferry.sock", "podferry.sock"]
)
async def test_t24_authorities_of_old_and_new_kubelets(rig: Rig, authority: str) -> None:
    """T24: older clients sent the socket's path, and some still do."""
    options = [("grpc.default_authority", authority)]
    async with connect(rig.shim.socket, options) as runtime:
        await _start(runtime, runtime)


async def test_t24_runtime_config_unimplemented_is_told(rig: Rig) -> None:
    """T24: kubelet falls back, or refuses to start: its decision, on the runtime's words."""
    text = "unknown method RuntimeConfig for service runtime.v1.RuntimeService"
    rig.fake.on(RUNTIME + "RuntimeConfig", Fail(UNIMPLEMENTED, text, read_first=False))
    answer = await unary(rig.through, RUNTIME + "RuntimeConfig")
    assert (answer.code, answer.text) == (UNIMPLEMENTED, text)


LISTS = {
    RUNTIME + "StreamPodSandboxes": RUNTIME + "ListPodSandbox",
    RUNTIME + "StreamContainers": RUNTIME + "ListContainers",
    IMAGE + "StreamImages": IMAGE + "ListImages",
}


@pytest.mark.parametrize("streaming", LISTS, ids=lambda name: name.rpartition("/")[2])
async def test_t24_stream_list_fallback(rig: Rig, streaming: str) -> None:
    """T24: a runtime without streaming lists: the call can be made, the first receive says
    Unimplemented, and the unary list works. Fifty times, since it is a race inside: grpc-go says
    so before it reads the request."""
    text = f"unknown method {streaming.rpartition('/')[2]}"
    rig.fake.on(streaming, Fail(UNIMPLEMENTED, text, read_first=False))
    for _ in range(50):
        call = rig.through.unary_stream(streaming)(b"", timeout=20)
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await call.read()
        assert failed.value.code() is UNIMPLEMENTED
        assert failed.value.details() == text
    assert (await unary(rig.through, LISTS[streaming])).code is OK


@pytest.mark.parametrize("streaming", LISTS, ids=lambda name: name.rpartition("/")[2])
async def test_t24_stream_lists_pass(rig: Rig, streaming: str) -> None:
    """T24: a runtime that has them: every response, then the end."""
    rig.fake.on(streaming, Events(110))
    replies = [m async for m in rig.through.unary_stream(streaming)(b"", timeout=20)]
    assert_in_order([int.from_bytes(m[:8], "big") for m in replies], 110)


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (grpc.StatusCode.UNKNOWN, "RegistryUnavailable: pull of registry.example/x failed"),
        (grpc.StatusCode.UNKNOWN, "SignatureValidationFailed: no signature"),
        (grpc.StatusCode.NOT_FOUND, f'container "{CONTAINER_ID}" not found'),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "command timed out"),
    ],
)
@pytest.mark.parametrize("method", [IMAGE + "PullImage", RUNTIME + "ExecSync"])
async def test_t24_errors_that_kubelet_reads(
    rig: Rig, method: str, code: grpc.StatusCode, text: str
) -> None:
    """T24: kubelet compares prefixes of these texts, so none may stand in front of them."""
    rig.fake.on(method, Fail(code, text))
    request = cri.ExecSyncRequest(container_id=CONTAINER_ID).SerializeToString()
    seen = await unary(rig.through, method, request)
    assert (seen.code, seen.text) == (code, text)


URL = b"http://127.0.0.1:40123/exec/Qm9zczp0b2tlbg-_%2F?x=1&y=%E2%98%83"


@pytest.mark.parametrize("name", ["Exec", "Attach", "PortForward"])
async def test_t25_streaming_url_is_unchanged(rig: Rig, name: str) -> None:
    """T25: the reply's bytes, a field unknown to us behind the URL included."""
    reply = b"\x0a" + bytes([len(URL)]) + URL + b"\xfa\x7c\x03new"
    rig.fake.on(RUNTIME + name, Reply(reply))
    request = {
        "Exec": cri.ExecRequest(container_id=CONTAINER_ID, cmd=["sh"], tty=True),
        "Attach": cri.AttachRequest(container_id=CONTAINER_ID, stdin=True),
        "PortForward": cri.PortForwardRequest(pod_sandbox_id=SANDBOX_ID, port=[80]),
    }[name].SerializeToString()
    assert (await unary(rig.through, RUNTIME + name, request)).replies == [reply]
    assert rig.fake.of(RUNTIME + name)[0].first_request == request


async def test_t26_one_subscription_upstream_for_each_downstream(own_rig: Rig) -> None:
    """T26: none of our own; three for three; each ends with its own."""
    rig, feed = own_rig, Feed()
    rig.fake.on(EVENTS, feed)
    await until(lambda: "registry rebuilt" in rig.shim.log, what="the service has settled")
    await unary(rig.through, RUNTIME + "Version")
    assert not rig.fake.of(EVENTS), "the service subscribed by itself"
    calls = []
    for number in range(1, 4):
        calls.append(rig.through.unary_stream(EVENTS)(b""))
        await until(lambda n=number: len(feed.queues) == n, what="a subscription opens")  # type: ignore[misc]
    for number in range(20):
        feed.push(b"event %d" % number)
    for call in calls:
        got = [await asyncio.wait_for(call.read(), 5) for _ in range(20)]
        assert got == [b"event %d" % number for number in range(20)]
    calls[1].cancel()
    await until(lambda: len(feed.queues) == 2, what="only its own subscription ends")
    feed.push(b"more")
    for call in (calls[0], calls[2]):
        assert await asyncio.wait_for(call.read(), 5) == b"more"
        call.cancel()
    await until(lambda: not feed.queues, what="all subscriptions end")
    assert len(rig.fake.of(EVENTS)) == 3


async def test_t26_events_come_when_they_happen(rig: Rig) -> None:
    """T26: not collected, not delayed: each is there before the next is made."""
    feed = Feed()
    rig.fake.on(EVENTS, feed)
    call = rig.through.unary_stream(EVENTS)(b"")
    await until(lambda: feed.queues, what="the stream opens")
    for number in range(100):
        feed.push(b"%d" % number)
        assert await asyncio.wait_for(call.read(), 5) == b"%d" % number
    call.cancel()


@pytest.mark.parametrize("code", [grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNAVAILABLE])
async def test_t26_the_runtimes_status_ends_the_stream(rig: Rig, code: grpc.StatusCode) -> None:
    """T26: kubelet counts failures; the runtime's own end is told, after its last event."""
    rig.fake.on(EVENTS, Fail(code, "subscriber is gone", replies=3))
    call = rig.through.unary_stream(EVENTS)(b"")
    assert [await call.read() for _ in range(3)] == [b"0", b"1", b"2"]
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call.read()
    assert (failed.value.code(), failed.value.details()) == (code, "subscriber is gone")
