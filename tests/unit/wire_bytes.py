# SPDX-License-Identifier: Apache-2.0
"""Protobuf's wire format by hand, to build messages with fields that our protos do not have.

Source: protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

VARINT, LENGTH = 0, 2


def varint(number: int) -> bytes:
    """A base-128 number."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def field(number: int, value: int | str | bytes) -> bytes:
    """One field: a number, a text, or bytes (a nested message)."""
    if isinstance(value, int):
        return varint(number << 3 | VARINT) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | LENGTH) + varint(len(data)) + data


def fields(data: bytes) -> dict[int, list[int | bytes]]:
    """The fields of a message by number, in order; only the two kinds that `field` writes."""
    found: dict[int, list[int | bytes]] = {}
    at = 0

    def read() -> int:
        nonlocal at
        number = shift = 0
        while True:
            byte = data[at]
            at += 1
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return number

    while at < len(data):
        tag = read()
        if tag & 7 == VARINT:
            found.setdefault(tag >> 3, []).append(read())
        else:
            assert tag & 7 == LENGTH, f"wire type {tag & 7}"
            size = read()
            found.setdefault(tag >> 3, []).append(data[at : at + size])
            at += size
    return found
