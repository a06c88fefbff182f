# SPDX-License-Identifier: Apache-2.0
"""Which message class a CRI method carries, and bytes to messages and back.

Decoding keeps unknown fields and encoding writes them again, at every depth; the order of map
entries may change, which is why an unchanged message is never encoded again.
"""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message

from cri_proto import runtime_v1_pb2 as cri
from shim.core import methods


def knows(method: str) -> bool:
    """Whether our protos have both messages of a method."""
    name = methods.short(method)
    return (
        method in methods.UNARY
        and hasattr(cri, f"{name}Request")
        and hasattr(cri, f"{name}Response")
    )


def decode_request(method: str, data: bytes) -> Any:
    """Parses a request.

    Raises:
        DecodeError: the bytes are no such message.
    """
    return getattr(cri, f"{methods.short(method)}Request").FromString(data)


def decode_reply(method: str, data: bytes) -> Any:
    """Parses a reply.

    Raises:
        DecodeError: the bytes are no such message.
    """
    return getattr(cri, f"{methods.short(method)}Response").FromString(data)


def encode(message: Message) -> bytes:
    """Encodes a message that a rule changed or made, its unknown fields included."""
    return message.SerializeToString()
