# SPDX-License-Identifier: Apache-2.0
"""T1-T3, T30: any method, and the bytes of both directions."""

from __future__ import annotations

import random

import grpc
import pytest

from cri_proto import runtime_v1_pb2 as cri
from shim.core.methods import IMAGE, RUNTIME, STREAMING, UNARY
from tests.contract.canned import CONTAINER_ID, run_request
from tests.contract.client import connect, stream, unary
from tests.contract.fake_runtime import FakeRuntime, digest
from tests.contract.scripts import Echo, Events, Reply
from tests.fix_contract import Rig, ShimFactory

INVENTED = (
    RUNTIME + "NobodyKnowsThis",
    IMAGE + "NorThis",
    "/runtime.v1alpha2.RuntimeService/Version",
    "/some.other.Service/Method",
    "/x/y",
)
CRI = tuple(sorted(UNARY | STREAMING))


@pytest.mark.parametrize("method", INVENTED)
async def test_t1_invented_method_fails_as_it_does_directly(rig: Rig, method: str) -> None:
    """T1: same code and text for a method of no proto of ours."""
    direct = await unary(rig.direct, method)
    through = await unary(rig.through, method)
    assert through == direct
    assert direct.code is grpc.StatusCode.UNIMPLEMENTED
    assert len(rig.fake.of(method)) == 2, "the service answered by itself"


@pytest.mark.parametrize("method", [*INVENTED, *CRI])
async def test_t1_any_method_reaches_the_backend(rig: Rig, method: str) -> None:
    """T1: a runtime that has the method gets the call, unary or as streams."""
    rig.fake.on(method, Echo())
    assert (await unary(rig.through, method, b"\x0a\x01x")).replies == [b"\x0a\x01x"]
    if method not in UNARY:
        sent = [b"a", b"", b"c"]
        assert (await stream(rig.through, method, sent)).replies == sent


@pytest.mark.parametrize("method", CRI)
async def test_t2_bytes_are_identical(rig: Rig, method: str) -> None:
    """T2: random bytes, which no message class would write that way, in both directions."""
    seeded = random.Random(method)
    request, reply = seeded.randbytes(20_000), seeded.randbytes(30_000)
    rig.fake.on(method, Reply(reply))
    seen = await unary(rig.through, method, request)
    assert seen.code is grpc.StatusCode.OK
    assert digest(seen.replies[0]) == digest(reply)
    assert rig.fake.of(method)[-1].digests == [digest(request)]


def _unusual(message: bytes) -> bytes:
    # Field 1999 as bytes, field 1000 as varint before it, then the first field again, empty:
    # valid, and not how any library would write it.
    return b"\xc0\x3e\x2a" + message + b"\xfa\x7c\x05extra" + b"\x0a\x00"


async def test_t2_decoded_methods_forward_the_original_bytes(rig: Rig) -> None:
    """T2: a request that rules look at, with unknown fields and an unusual order."""
    request = _unusual(run_request(labels="x").SerializeToString(deterministic=False))
    reply = _unusual(cri.RunPodSandboxResponse(pod_sandbox_id="ff" * 32).SerializeToString())
    rig.fake.on(RUNTIME + "RunPodSandbox", Reply(reply))
    seen = await unary(rig.through, RUNTIME + "RunPodSandbox", request)
    assert seen.replies == [reply]
    assert rig.fake.of(RUNTIME + "RunPodSandbox")[0].first_request == request


def _nested(field: bytes, body: bytes) -> bytes:
    return field + bytes([len(body)]) + body


async def test_t3_a_changed_message_keeps_unknown_fields(
    fake: FakeRuntime, shims: ShimFactory, odd: object
) -> None:
    """T3: a rule edits one field; what else the request had arrives, at every depth."""
    shim = await shims.make(fake.path, module=odd("edit")).start()  # type: ignore[operator]
    unknown_top = b"\xfa\x7c\x03top"
    # config (1) { metadata (1) { name, unknown 1999 }, unknown 1999 }
    metadata = _nested(b"\x0a", b"web") + b"\xfa\x7c\x04deep"
    config = _nested(b"\x0a", metadata) + b"\xfa\x7c\x03mid"
    request = _nested(b"\x0a", config) + unknown_top
    async with connect(shim.socket) as channel:
        assert (await unary(channel, RUNTIME + "RunPodSandbox", request)).code.name == "OK"
        arrived = cri.RunPodSandboxRequest.FromString(
            fake.of(RUNTIME + "RunPodSandbox")[0].first_request
        )
        assert arrived.config.annotations.pop("edited") == "yes"
        expected = cri.RunPodSandboxRequest.FromString(request)
        assert arrived.SerializeToString(deterministic=True) == expected.SerializeToString(
            deterministic=True
        )
        for unknown in (b"top", b"mid", b"deep"):
            assert unknown in arrived.SerializeToString()


async def test_t3_a_changed_reply_keeps_unknown_fields(
    fake: FakeRuntime, shims: ShimFactory, odd: object
) -> None:
    """T3: the same for a reply."""
    shim = await shims.make(fake.path, module=odd("edit")).start()  # type: ignore[operator]
    reply = cri.ExecSyncResponse(stdout=b"out", exit_code=1).SerializeToString()
    fake.on(RUNTIME + "ExecSync", Reply(reply + b"\xfa\x7c\x05extra"))
    request = cri.ExecSyncRequest(container_id=CONTAINER_ID).SerializeToString() + b"\xfa\x7c\x01q"
    async with connect(shim.socket) as channel:
        seen = await unary(channel, RUNTIME + "ExecSync", request)
    assert seen.replies[0].endswith(b"\xfa\x7c\x05extra")
    changed = cri.ExecSyncResponse.FromString(seen.replies[0])
    assert (changed.stdout, changed.exit_code) == (b"out", 42)
    assert fake.of(RUNTIME + "ExecSync")[0].first_request == request, "only the reply was edited"


@pytest.mark.parametrize("method", [*CRI, *INVENTED])
async def test_t30_no_deadline_no_metadata_no_bytes(rig: Rig, method: str) -> None:
    """T30: the emptiest call there is, and an empty reply."""
    rig.fake.on(method, Reply(b""))
    seen = await unary(rig.through, method)
    assert (seen.code, seen.replies) == (grpc.StatusCode.OK, [b""])
    backend = rig.fake.of(method)[-1]
    assert backend.digests == [digest(b"")]
    assert backend.time_remaining_s is None
    assert backend.metadata == ()


async def test_t30_a_stream_without_any_message(rig: Rig) -> None:
    """T30: neither side says a word, and OK stays OK."""
    rig.fake.on("/x/Silent", Events(0))
    seen = await stream(rig.through, "/x/Silent", [])
    assert (seen.code, seen.replies) == (grpc.StatusCode.OK, [])
    assert rig.fake.of("/x/Silent")[0].digests == []
