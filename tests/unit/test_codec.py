# SPDX-License-Identifier: Apache-2.0
"""Bytes to messages and back: which methods have messages, and that nothing unknown is lost."""

from __future__ import annotations

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from cri_proto import runtime_v1_pb2 as cri
from shim.core import methods
from shim.core.methods import IMAGE, RUNTIME
from shim.rules.hold import Hold
from shim.rules.remember import Remember
from shim.rules.settle import Settle
from shim.server import codec
from tests.unit import wire_bytes as wire

CREATE = RUNTIME + "CreateContainer"


@pytest.mark.parametrize("rule", [Remember, Hold, Settle])
def test_every_method_a_rule_asks_for_has_its_messages(rule: type) -> None:
    unknown = [m for m in rule.methods if not codec.knows(m)]  # type: ignore[attr-defined]
    assert unknown == []


@pytest.mark.parametrize(
    ("method", "known"),
    [
        (CREATE, True),
        (IMAGE + "PullImage", True),
        (RUNTIME + "GetContainerEvents", False),
        (RUNTIME + "RestorePod", False),
        (RUNTIME + "Invented", False),
        ("/other.v1.RuntimeService/CreateContainer", False),
        ("CreateContainer", False),
        ("", False),
    ],
)
def test_which_methods_are_known(method: str, known: bool) -> None:
    assert codec.knows(method) is known


def test_request_and_reply_have_their_own_messages() -> None:
    assert isinstance(codec.decode_request(CREATE, b""), cri.CreateContainerRequest)
    assert isinstance(codec.decode_reply(CREATE, b""), cri.CreateContainerResponse)
    pull = codec.decode_request(IMAGE + "PullImage", wire.field(1, wire.field(1, "nginx")))
    assert pull.image.image == "nginx"


@pytest.mark.parametrize("data", [b"\xff", b"\x0a\x05ab", wire.field(1, b"\xff\xfe")])
def test_bytes_that_are_no_message_raise(data: bytes) -> None:
    with pytest.raises(DecodeError):
        codec.decode_request(CREATE, data)


@given(
    st.dictionaries(
        st.integers(100, 5000), st.integers(0, 2**64 - 1) | st.binary(max_size=40), max_size=6
    ),
    st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=5),
)
def test_unknown_fields_and_maps_survive_decoding_and_encoding(
    unknown: dict[int, int | bytes], labels: dict[str, str]
) -> None:
    extra = b"".join(wire.field(number, value) for number, value in unknown.items())
    entries = b"".join(
        wire.field(9, wire.field(1, k) + wire.field(2, v)) for k, v in labels.items()
    )
    data = wire.field(1, "s1") + wire.field(2, entries + extra) + extra
    message = codec.decode_request(CREATE, data)
    assert dict(message.config.labels) == labels
    outer = wire.fields(codec.encode(message))
    inner = wire.fields(outer[2][0]) if outer.get(2) else {}  # type: ignore[arg-type]
    for number, value in unknown.items():
        assert outer[number] == [value]
        assert inner[number] == [value]
    assert dict(codec.decode_request(CREATE, codec.encode(message)).config.labels) == labels


def test_no_method_of_cri_is_decoded_by_a_message_of_another_service() -> None:
    for method in methods.UNARY:
        if codec.knows(method):
            name = methods.short(method)
            assert type(codec.decode_request(method, b"")).__name__ == f"{name}Request"
