# SPDX-License-Identifier: Apache-2.0
"""T4-T7: metadata in all its places, and statuses verbatim."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from shim.core.methods import RUNTIME
from tests.contract.client import Observation, stream, unary
from tests.contract.metadata import MetadataPairs, by_key
from tests.contract.scripts import EndEarly, Events, Fail, Hang, Reply
from tests.fix_contract import Rig

# One method carried as unary, one of those with rules, one stream of CRI, one of no proto of ours.
METHODS = (
    RUNTIME + "Status",
    RUNTIME + "StopContainer",
    RUNTIME + "GetContainerEvents",
    "/some.other.Service/Method",
)

SENT: MetadataPairs = (
    ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ("x-double", "first"),
    ("baggage", "key=value;property,key2=value2"),
    ("x-blob-bin", bytes(range(256))),
    ("x-double", "second"),
    ("x-empty", ""),
    ("x-blob-bin", b""),
    ("x-double", "first"),
    ("authorization", "Bearer abc"),
)
DETAILS = b"\x08\x05\x12\x07missing\x1a\x02\x0a\x00\xff\xfe"


def _kinds() -> list[object]:
    return [pytest.param(method, id=method.rpartition("/")[2]) for method in METHODS]


@pytest.mark.parametrize("method", _kinds())
async def test_t4_request_metadata_arrives(rig: Rig, method: str) -> None:
    """T4: every pair, doubles and binary ones included, in the order they were sent."""
    rig.fake.on(method, Reply())
    for _, channel in rig.ways():
        await unary(channel, method, metadata=SENT)
    direct, through = rig.fake.of(method)
    assert direct.metadata == SENT, "the test client itself lost something"
    assert through.metadata == SENT


@pytest.mark.parametrize("method", _kinds())
async def test_t4_hundred_pairs_and_long_values(rig: Rig, method: str) -> None:
    """T4: no limit of ours on metadata."""
    sent = tuple((f"x-{number % 7}", str(number) * 50) for number in range(100))
    sent = (*sent, ("x-long", "v" * 200_000))
    rig.fake.on(method, Reply())
    assert (await unary(rig.through, method, metadata=sent)).code is grpc.StatusCode.OK
    assert rig.fake.of(method)[0].metadata == sent


@pytest.mark.parametrize("name", ["GetContainerEvents", "StreamContainers", "Invented"])
async def test_t5_initial_metadata_is_forwarded_when_sent(rig: Rig, name: str) -> None:
    """T5: an idle stream's headers are there before its first message."""
    rig.fake.on(RUNTIME + name, Hang(initial=(("x-early", "1"), ("x-early", "2"))))
    call = rig.through.stream_stream(RUNTIME + name)()
    await call.write(b"")
    headers = await asyncio.wait_for(call.initial_metadata(), 10)
    assert by_key(tuple(headers))["x-early"] == ["1", "2"]
    assert not call.done()
    call.cancel()


@pytest.mark.parametrize("method", _kinds())
@pytest.mark.parametrize("ending", ["reply", "ok-without-reply", "error", "error-after-reply"])
async def test_t5_t6_metadata_of_replies(rig: Rig, method: str, ending: str) -> None:
    """T5, T6: initial and trailing metadata on success and on error, details included."""
    if "without" in ending and method in METHODS[:2]:
        pytest.skip("a unary call that ends with OK has a reply")
    initial = (("x-first", "a"), ("x-first", "b"), ("x-raw-bin", b"\x00\xff"))
    trailing = (("x-last", "y"), ("x-last", "z"), ("grpc-status-details-bin", DETAILS))
    script = {
        "reply": Reply(b"r", initial, trailing),
        "ok-without-reply": EndEarly(0, trailing, initial),
        "error": Fail(grpc.StatusCode.NOT_FOUND, "no such thing", trailing, initial),
        "error-after-reply": Fail(grpc.StatusCode.ABORTED, "changed", trailing, initial, replies=1),
    }[ending]
    rig.fake.on(method, script)
    call = unary if ending == "reply" or method in METHODS[:2] else stream
    seen = [await call(channel, method) for _, channel in rig.ways()]
    assert seen[1] == seen[0]
    assert seen[0].trailing == by_key(trailing)
    assert seen[0].initial == by_key(initial)


async def test_t6_trailing_metadata_after_a_stream(rig: Rig) -> None:
    """T6: a stream of several messages that ends with OK."""
    rig.fake.on(RUNTIME + "StreamContainers", Events(5, trailing=(("x-total", "5"),)))
    seen = [await stream(channel, RUNTIME + "StreamContainers") for _, channel in rig.ways()]
    assert seen[1] == seen[0]
    assert seen[0].trailing == {"x-total": ["5"]}


TEXTS = {
    "empty": "",
    "plain": 'an error occurred when try to find container "c0": not found',
    "non-ascii": "Fehler: Umläute, 漢字, \N{SNOWMAN}, tab\t, new\nline, 100% of %0A",
    "9KB": "e" * 9_000,
    "17KB": "é" * 8_500,
    "500KB": "x" * 500_000,
}
FAILURES = tuple(code for code in grpc.StatusCode if code is not grpc.StatusCode.OK)


@pytest.mark.parametrize("code", FAILURES, ids=lambda code: code.name)
@pytest.mark.parametrize("method", _kinds())
async def test_t7_every_code_with_its_text(rig: Rig, method: str, code: grpc.StatusCode) -> None:
    """T7: all sixteen failures, without a word of ours in the text."""
    rig.fake.on(method, Fail(code, f"text of {code.name}"))
    seen = await unary(rig.through, method)
    assert (seen.code, seen.text) == (code, f"text of {code.name}")
    assert seen == await unary(rig.direct, method)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("method", _kinds())
async def test_t7_texts_of_all_sizes(rig: Rig, method: str, text: str) -> None:
    """T7: twenty times each, since a limit that strikes at random needs tries to show."""
    rig.fake.on(method, Fail(grpc.StatusCode.UNKNOWN, TEXTS[text]))
    tries = 20 if len(TEXTS[text]) < 100_000 else 3
    seen = await asyncio.gather(*(unary(rig.through, method) for _ in range(tries)))
    assert seen == [Observation(grpc.StatusCode.UNKNOWN, TEXTS[text])] * tries
