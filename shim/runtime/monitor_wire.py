# SPDX-License-Identifier: Apache-2.0
"""The container monitor's control protocol as bytes (docs/monitor.md); no sockets, no waiting."""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from shim.errors import InvalidMessage

MAGIC = b"PFM1"
VERSION = 1
PACKET_BYTES = 65536
DESCRIPTORS_MAX = 32

_HEADER = struct.Struct("<4sHHIiII")
_ITEM = struct.Struct("<HHI")
_STATE = struct.Struct("<4I2Q6IQ")
_EVENT = struct.Struct("<Q3Ii4Q")
_MAP = struct.Struct("<4I")


class Verb(enum.IntEnum):
    """What is asked of a monitor; EVENT is what it tells by itself."""

    STATE = 1
    LEASE = 2
    STARTED = 3
    CHECKPOINT = 4
    ARM = 5
    DISARM = 6
    WAKE = 7
    KILL = 8
    DELETE = 9
    SUBSCRIBE = 10
    EVENT = 11
    RESUME = 12
    DEPART = 13
    EXIT = 14
    CLAIM = 15
    UNCLAIM = 16
    PREPARE = 17
    GO = 18
    DROP = 19


class Flag(enum.IntFlag):
    """Modifies a verb."""

    NONE = 0
    LEAVE_RUNNING = 1
    FORCE = 2
    AWAKE = 4
    REMOVE_IMAGES = 8
    HOLD = 16
    STAGE = 32
    SIGNAL = 64
    READY = 256


class Status(enum.IntEnum):
    """How a question was answered."""

    OK = 0
    BAD_REQUEST = 1
    WRONG_STATE = 2
    BUSY = 3
    REFUSED = 4
    CRIU_FAILED = 5
    INTERNAL = 6
    ALREADY = 7


class State(enum.IntEnum):
    """The state of a monitored container."""

    FRESH = 0
    RUNNING = 1
    CHECKPOINTING = 2
    ASLEEP = 3
    WAKING = 4
    ENDING = 5
    HELD = 6
    DEPARTED = 7
    CLAIMED = 8
    STAGED = 9


class Cause(enum.IntEnum):
    """Who began a change of state; NOBODY for an end by itself."""

    NOBODY = 0
    CLIENT = 1
    TRIGGER = 2
    VERB = 3


class Item(enum.IntEnum):
    """What a packet's body is made of."""

    TEXT = 1
    STATE = 2
    REQUEST = 3
    IMAGES = 4
    PAGER_ARGV = 5
    CRIU_NAMESPACES = 6
    TRIGGERS = 7
    CRIU_FDS = 8
    PAGER_FDS = 9
    MAP = 10
    NETLINK = 11
    WRITE = 12
    EVENT = 13
    TIMEOUT_MS = 14
    STATUS = 15
    CRIU_ENVIRONMENT = 16


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A monitor and its container at one moment; times are CLOCK_MONOTONIC."""

    state: State
    monitor_pid: int
    init_pid: int
    placeholder_pid: int
    init_start: int
    since_ns: int
    sleeps: int
    wakes: int
    terminal: bool
    armed: bool
    leases: int
    pager_pid: int
    sequence: int


@dataclass(frozen=True, slots=True)
class Event:
    """One change of state that has ended, and when its steps were done (CLOCK_MONOTONIC)."""

    sequence: int
    before: State
    after: State
    cause: Cause
    status: int
    begun_ns: int
    criu_ns: int
    done_ns: int
    release_ns: int
    text: str


@dataclass(frozen=True, slots=True)
class Packet:
    """A packet taken apart."""

    verb: int
    tag: int
    status: int
    flags: int
    items: tuple[tuple[int, bytes], ...]

    def first(self, item: Item) -> bytes | None:
        """The payload of the first item of that type."""
        return next((payload for kind, payload in self.items if kind == item), None)

    @property
    def text(self) -> str:
        """What it says in words; "" if nothing."""
        return (self.first(Item.TEXT) or b"").decode("utf-8", "replace")

    def snapshot(self) -> Snapshot:
        """The state it carries.

        Raises:
            InvalidMessage: it carries none.
        """
        payload = self.first(Item.STATE) or b""
        try:
            state, monitor, init, placeholder, start, since, *rest = _STATE.unpack(payload)
            sleeps, wakes, terminal, armed, leases, pager, sequence = rest
            return Snapshot(
                State(state), monitor, init, placeholder, start, since, sleeps, wakes,
                bool(terminal), bool(armed), leases, pager, sequence,
            )  # fmt: skip
        except (struct.error, ValueError) as error:
            raise InvalidMessage(f"a monitor's state is not one: {error}") from error

    def event(self) -> Event:
        """The event it carries.

        Raises:
            InvalidMessage: it carries none.
        """
        try:
            number, before, after, cause, status, begun, criu, done, release = _EVENT.unpack(
                self.first(Item.EVENT) or b""
            )
            return Event(
                number, State(before), State(after), Cause(cause), status,
                begun, criu, done, release, self.text,
            )  # fmt: skip
        except (struct.error, ValueError) as error:
            raise InvalidMessage(f"a monitor's event is not one: {error}") from error


def compose(
    verb: Verb,
    items: Sequence[tuple[Item, bytes]] = (),
    *,
    tag: int = 1,
    status: int = 0,
    flags: int = 0,
) -> bytes:
    """A packet.

    Raises:
        InvalidMessage: it would be longer than a monitor reads.
    """
    body = b"".join(
        _ITEM.pack(kind, 0, len(payload)) + payload + bytes(-len(payload) % 4)
        for kind, payload in items
    )
    if _HEADER.size + len(body) > PACKET_BYTES:
        raise InvalidMessage(
            f"a request of {len(body)} bytes is more than a monitor reads",
            remedy="this is a bug: the largest part of a request is CRIU's, some 10 KB",
        )
    return _HEADER.pack(MAGIC, VERSION, verb, tag, status, flags, len(body)) + body


def parse(data: bytes) -> Packet:
    """Takes a packet apart.

    Raises:
        InvalidMessage: it is not a packet of this version.
    """
    if len(data) < _HEADER.size:
        raise InvalidMessage(f"a packet of {len(data)} bytes is shorter than its header")
    magic, version, verb, tag, status, flags, body = _HEADER.unpack_from(data)
    if magic != MAGIC or version != VERSION or body != len(data) - _HEADER.size:
        raise InvalidMessage(f"not a monitor's packet: {data[: _HEADER.size].hex()}")
    return Packet(verb, tag, status, flags, tuple(_items(data)))


def _items(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = _HEADER.size
    while at < len(data):
        if len(data) - at < _ITEM.size:
            raise InvalidMessage("a packet ends within an item")
        kind, _, length = _ITEM.unpack_from(data, at)
        at += _ITEM.size
        if length + (-length % 4) > len(data) - at:
            raise InvalidMessage(f"an item of {length} bytes is longer than its packet")
        yield kind, data[at : at + length]
        at += length + (-length % 4)


def indexes(numbers: Sequence[int]) -> bytes:
    """Which of the packet's descriptors an item means."""
    return struct.pack(f"<{len(numbers)}I", *numbers)


def map_action(descriptor: int, key: bytes, value: bytes | None) -> tuple[Item, bytes]:
    """Sets a key of a BPF map, or deletes it; ``descriptor`` is an index into the packet's."""
    written = value or b""
    return Item.MAP, _MAP.pack(descriptor, len(key), len(written), 0) + key + written


def netlink_action(descriptor: int, message: bytes) -> tuple[Item, bytes]:
    """Sends a netlink message on a socket; ``descriptor`` is an index into the packet's."""
    return Item.NETLINK, struct.pack("<I", descriptor) + message


def write_action(path: str, value: bytes) -> tuple[Item, bytes]:
    """Writes into an existing file (a control file of the kernel), as one write."""
    encoded = path.encode()
    return Item.WRITE, struct.pack("<I", len(encoded)) + encoded + value
