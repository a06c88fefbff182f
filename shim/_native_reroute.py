# SPDX-License-Identifier: Apache-2.0
"""The C library's rerouting programs and maps (bpf/reroute), with Python's types and errors."""

from __future__ import annotations

import enum
import errno
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from shim import _native_target
from shim._native import VERIFIER_LOG_BYTES, binding, call, packed, text
from shim._native_target import Address, Target
from shim.errors import NativeError

_KEY_BYTES, _ADDRESS_BYTES, _FRAME_BYTES = 40, 16, 1 << 16


class Program(enum.IntEnum):
    """The programs, by where they stand."""

    INGRESS = 0
    EGRESS = 1
    FROM_POD = 2
    XDP = 3


class XdpMode(enum.IntEnum):
    """How XDP is attached: by the driver if it can, by the kernel, by the driver or not at all."""

    ANY = 0
    GENERIC = 1
    NATIVE = 2


class NodeKind(enum.IntEnum):
    """What an address of a node is to this node."""

    PEER = 1
    SELF = 2


class EntryFlag(enum.IntFlag):
    """To which packets an entry applies."""

    OWN_ONLY = 1


_ANY = EntryFlag(0)


@dataclass(frozen=True, slots=True)
class FlowKey:
    """The way of a packet: protocol by number, ports 0 where it has none."""

    protocol: int
    source: Address
    source_port: int
    destination: Address
    destination_port: int

    def raw(self) -> bytes:
        """As the map's key."""
        ports = self.source_port.to_bytes(2, "big") + self.destination_port.to_bytes(2, "big")
        return (
            packed(self.source) + packed(self.destination) + ports + bytes([self.protocol, 0, 0, 0])
        )

    @classmethod
    def of(cls, raw: bytes) -> FlowKey:
        """The key's meaning."""
        return cls(
            raw[36],
            _native_target.unpacked(raw[:16]),
            int.from_bytes(raw[32:34], "big"),
            _native_target.unpacked(raw[16:32]),
            int.from_bytes(raw[34:36], "big"),
        )


@dataclass(frozen=True, slots=True)
class Entry:
    """Where packets go, since which epoch, until when (CLOCK_MONOTONIC in ns, 0 for ever)."""

    target: Target
    epoch: int
    expires_ns: int = 0
    flags: EntryFlag = _ANY
    packets: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Counters:
    """What the programs have done since they were first loaded."""

    sent: int = 0
    opened: int = 0
    strange: int = 0
    expired: int = 0
    too_long: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class Run:
    """One program's run on a frame: its verdict, the frame it left, nanoseconds per run."""

    verdict: int
    frame: bytes
    duration_ns: int


def detach(pin_dir: Path, program: Program, ifindex: int) -> None:
    """Takes one program off a device; nothing if it is not there."""
    try:
        call(binding()[1].pf_reroute_detach, bytes(pin_dir), int(program), ifindex)
    except NativeError as error:
        if error.errno_value != errno.ENOENT:
            raise


def uninstall(pin_dir: Path) -> None:
    """Detaches and unpins all that is in a directory, which stays; nothing if there is none."""
    call(binding()[1].pf_reroute_uninstall, bytes(pin_dir))


@dataclass(slots=True)
class Loaded:
    """The programs, with the maps that are pinned in a directory; `close` lets them go.

    Raises:
        NativeError: they cannot be loaded; a note holds the verifier's own words.
    """

    pin_dir: Path
    _handle: Any = field(init=False, repr=False)

    def __post_init__(self) -> None:
        ffi, lib = binding()
        self._handle = ffi.NULL
        out = ffi.new("struct pf_reroute **")
        log = ffi.new("char[]", VERIFIER_LOG_BYTES)
        try:
            call(lib.pf_reroute_open, out, bytes(self.pin_dir), log, VERIFIER_LOG_BYTES)
        except NativeError as error:
            error.add_note(text(log))
            raise
        self._handle = out[0]

    def close(self) -> None:
        """Lets go; what is pinned or attached stays. A second call does nothing."""
        ffi, lib = binding()
        handle, self._handle = self._handle, ffi.NULL
        lib.pf_reroute_close(handle)

    def attach(self, program: Program, ifindex: int, mode: XdpMode = XdpMode.ANY) -> None:
        """Puts a program on a device, or in place of the one that is there.

        Raises:
            NativeError: EINVAL, the kernel has no tcx; EBUSY, another's XDP program is there;
                EOPNOTSUPP, the driver has no XDP.
        """
        call(binding()[1].pf_reroute_attach, self._open(), int(program), ifindex, int(mode))

    def put(self, key: Address | FlowKey, entry: Entry) -> None:
        """Writes an entry; its counts become those given.

        Raises:
            NativeError: E2BIG, the map is full.
        """
        raw: Any = binding()[0].new("struct pf_reroute_value *")
        entry.target.fill(raw.target)
        raw.epoch, raw.expires_ns, raw.flags = entry.epoch, entry.expires_ns, int(entry.flags)
        raw.packets, raw.bytes = entry.packets, entry.bytes
        call(binding()[1].pf_reroute_put, self._open(), *_place_of(key), raw)

    def get(self, key: Address | FlowKey) -> Entry | None:
        """An entry; None if there is none."""
        raw: Any = binding()[0].new("struct pf_reroute_value *")
        try:
            call(binding()[1].pf_reroute_get, self._open(), *_place_of(key), raw)
        except NativeError as error:
            if error.errno_value == errno.ENOENT:
                return None
            raise
        target = Target.of(raw.target)
        if target is None:
            return None
        return Entry(
            target,
            int(raw.epoch),
            int(raw.expires_ns),
            EntryFlag(int(raw.flags)),
            int(raw.packets),
            int(raw.bytes),
        )

    def drop(self, key: Address | FlowKey) -> None:
        """Deletes an entry; nothing if there is none."""
        self._drop(*_place_of(key))

    def addresses(self) -> list[Address]:
        """Every address that has an entry."""
        keys = self._keys(binding()[1].PF_REROUTE_MAP_ADDRESSES, _ADDRESS_BYTES)
        return [_native_target.unpacked(key) for key in keys]

    def flows(self) -> list[FlowKey]:
        """Every flow that has an entry."""
        keys = self._keys(binding()[1].PF_REROUTE_MAP_FLOWS, _KEY_BYTES)
        return [FlowKey.of(key) for key in keys]

    def set_node(self, address: Address, kind: NodeKind) -> None:
        """Says that an address is a peer's, whose tunnels are opened, or this node's own."""
        lib = binding()[1]
        value = binding()[0].new("uint32_t *", int(kind))
        call(lib.pf_reroute_put, self._open(), lib.PF_REROUTE_MAP_NODES, packed(address), value)

    def drop_node(self, address: Address) -> None:
        """Forgets a node; nothing if it was not known."""
        self._drop(binding()[1].PF_REROUTE_MAP_NODES, packed(address))

    def counters(self) -> Counters:
        """The sums over all CPUs."""
        raw: Any = binding()[0].new("struct pf_reroute_counters *")
        call(binding()[1].pf_reroute_read_counters, self._open(), raw)
        return Counters(**{item.name: int(getattr(raw, item.name)) for item in fields(Counters)})

    def test_run(self, program: Program, frame: bytes, ifindex: int, repeat: int = 1) -> Run:
        """Runs a program on a frame as if it had come by a device.

        Raises:
            NativeError: EINVAL, the frame is shorter than an Ethernet header.
        """
        ffi, lib = binding()
        out, size = ffi.new("uint8_t[]", _FRAME_BYTES), ffi.new("size_t *", _FRAME_BYTES)
        verdict, duration = ffi.new("uint32_t *"), ffi.new("uint32_t *")
        call(
            lib.pf_reroute_test_run,
            self._open(),
            int(program),
            frame,
            len(frame),
            ifindex,
            repeat,
            out,
            size,
            verdict,
            duration,
        )
        return Run(int(verdict[0]), bytes(ffi.buffer(out, int(size[0]))), int(duration[0]))

    def _drop(self, number: int, key: bytes) -> None:
        try:
            call(binding()[1].pf_reroute_drop, self._open(), number, key)
        except NativeError as error:
            if error.errno_value != errno.ENOENT:
                raise

    def _keys(self, number: int, key_bytes: int) -> Iterator[bytes]:
        ffi, lib = binding()
        key = ffi.new("uint8_t[]", key_bytes)
        previous: Any = ffi.NULL
        seen = set()
        # A key that is deleted meanwhile makes the kernel begin anew.
        while call(lib.pf_reroute_next, self._open(), number, previous, key):
            found = bytes(ffi.buffer(key))
            if found not in seen:
                seen.add(found)
                yield found
            previous = ffi.new("uint8_t[]", found)

    def _open(self) -> Any:
        if not self._handle:
            raise ValueError("the programs were closed")
        return self._handle


def _place_of(key: Address | FlowKey) -> tuple[int, bytes]:
    lib = binding()[1]
    if isinstance(key, FlowKey):
        return lib.PF_REROUTE_MAP_FLOWS, key.raw()
    return lib.PF_REROUTE_MAP_ADDRESSES, packed(key)
