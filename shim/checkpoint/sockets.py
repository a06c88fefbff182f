# SPDX-License-Identifier: Apache-2.0
"""Closes the TCP connections in an image, so that a restore need not be told about them.

CRIU dumps with its tcp_close option leave the connections in the image and mark it, and a restore
then needs the same option, which runc never gives. Here each connection becomes a fresh socket and
the mark goes: the program finds it not connected, as after a lost connection.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.message import DecodeError

from cri_proto import criu_core_pb2 as pb
from shim.errors import InvalidMessage

# criu/include/magic.h: most files begin with the common magic and their own, the inventory with its
# own alone.
_COMMON_MAGIC = struct.pack("<I", 0x54564319)
_LENGTH = struct.Struct("<I")
_TCP = 6
# include/net/tcp_states.h: CLOSE has nothing to lose, LISTEN must stay.
_CLOSE, _LISTEN = 7, 10


def close_connections(images_dir: Path) -> int:
    """Closes them in ``images_dir``; returns how many there were.

    Raises:
        InvalidMessage: an image is not as CRIU 4.2 writes it.
    """
    try:
        closed = _close_in_files(images_dir / "files.img")
        _take_mark_off(images_dir / "inventory.img")
    except (DecodeError, struct.error) as error:
        raise InvalidMessage(f"no image of CRIU 4: {error}", where=str(images_dir)) from error
    return closed


def _close_in_files(path: Path) -> int:
    data = path.read_bytes()
    out = [_head(data)]
    closed = 0
    for raw in _entries(data):
        entry = pb.file_entry.FromString(raw)
        connected = (
            entry.HasField("isk")
            and entry.isk.proto == _TCP
            and entry.isk.state not in (_CLOSE, _LISTEN)
        )
        if connected:
            closed += 1
            entry.isk.state, entry.isk.src_port, entry.isk.dst_port = _CLOSE, 0, 0
            raw = entry.SerializeToString()  # noqa: PLW2901
        out += [_LENGTH.pack(len(raw)), raw]
    path.write_bytes(b"".join(out))
    return closed


def _take_mark_off(path: Path) -> None:
    data = path.read_bytes()
    (raw,) = _entries(data)
    entry = pb.inventory_entry.FromString(raw)
    entry.ClearField("tcp_close")
    body = entry.SerializeToString()
    path.write_bytes(_head(data) + _LENGTH.pack(len(body)) + body)


def _head(data: bytes) -> bytes:
    return data[:8] if data.startswith(_COMMON_MAGIC) else data[:4]


def _entries(data: bytes) -> Iterator[bytes]:
    at = len(_head(data))
    while at < len(data):
        (length,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        if at + length > len(data):
            raise struct.error("an entry is cut short")
        yield data[at : at + length]
        at += length
