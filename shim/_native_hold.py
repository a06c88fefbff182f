# SPDX-License-Identifier: Apache-2.0
"""The C library's hold of one pod's packets (bpf/hold), with Python's types and errors."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from shim import _native_target
from shim._native import VERIFIER_LOG_BYTES, binding, call, packed, text
from shim._native_target import Address, Target
from shim.errors import NativeError

ADDRESS_BYTES = 16


class Phase(enum.IntEnum):
    """What happens to a packet: it passes, is held, goes through the opened plug, or elsewhere."""

    PASS = 0
    HELD = 1
    RELEASING = 2
    FORWARDING = 3
    FORWARD = 4
    SPEAKING = 5


class Cause(enum.IntEnum):
    """Why a packet woke its pod."""

    TCP_SYN = 1
    TCP_DATA = 2
    TCP_FIN = 3
    UDP = 4
    ICMP = 5
    OTHER = 6


class Flag(enum.IntFlag):
    """How a hold was made."""

    WAKE_ON_ICMP = 1 << 0
    SHARED_DEVICE = 1 << 1
    DELIVER_PEER = 1 << 2
    CLSACT = 1 << 3
    CLSACT_IS_OURS = 1 << 4


class Program(enum.IntEnum):
    """The programs of a hold."""

    TO_POD = 0
    FROM_POD = 1
    FAR_END = 2


@dataclass(frozen=True, slots=True)
class Settings:
    """What a hold was made with.

    Attributes:
        pod_ifindex: the host's end of the pod's veth.
        plug_ifindex: the plug's end that has the qdisc.
        far_ifindex: the plug's other end.
        max_packets: how many packets (segments) are held at most.
        max_bytes: how many bytes are held at most.
        flags: how it delivers, what wakes, how it is attached.
        pod_mac: frames to other MAC addresses are not the pod's; b"" or zeros for any.
    """

    pod_ifindex: int
    plug_ifindex: int
    far_ifindex: int
    max_packets: int
    max_bytes: int
    flags: Flag
    pod_mac: bytes = bytes(6)


@dataclass(frozen=True, slots=True)
class Counters:
    """What a hold has seen since its last arming; times are CLOCK_MONOTONIC, 0 for none."""

    in_packets: int = 0
    in_bytes: int = 0
    out_packets: int = 0
    out_bytes: int = 0
    over_packets: int = 0
    over_bytes: int = 0
    quiet_over_packets: int = 0
    shielded_packets: int = 0
    shielded_resets: int = 0
    shielded_icmp: int = 0
    strays: int = 0
    looped: int = 0
    first_in_ns: int = 0
    last_in_ns: int = 0
    first_out_ns: int = 0
    last_out_ns: int = 0
    forwarded_packets: int = 0
    bounced_packets: int = 0
    unsent_packets: int = 0

    @property
    def held_packets(self) -> int:
        """How many wait in the plug now."""
        return self.in_packets - self.out_packets

    @property
    def lost_packets(self) -> int:
        """How many were dropped: a broken promise if it is not 0."""
        return self.over_packets + self.quiet_over_packets + self.unsent_packets


@dataclass(frozen=True, slots=True)
class Waking:
    """The packet that wakes a pod; ports are 0 where the protocol has none."""

    time_ns: int
    cause: Cause
    protocol: int
    source: Address
    source_port: int
    destination: Address
    destination_port: int


@dataclass(frozen=True, slots=True)
class PodDevice:
    """The pod's side of a veth: its index there, the index of the other end, its MAC."""

    ifindex: int
    peer_ifindex: int
    mac: bytes


def find_device(netns: Path, address: Address) -> PodDevice:
    """Finds the device that bears an address in a network namespace.

    Raises:
        NativeError: ENODEV, none does; ENOENT, no such namespace.
    """
    ffi, lib = binding()
    ifindex, peer, mac = ffi.new("uint32_t *"), ffi.new("uint32_t *"), ffi.new("uint8_t[6]")
    call(lib.pf_hold_find_device, bytes(netns), packed(address), ifindex, peer, mac)
    return PodDevice(int(ifindex[0]), int(peer[0]), bytes(mac))


def make_pin_dir(root: Path, pin_dir: Path) -> None:
    """Makes a directory for pins; mounts a bpf file system at ``root`` if there is none.

    Raises:
        NativeError: it cannot be made.
    """
    call(binding()[1].pf_hold_make_pin_dir, bytes(root), bytes(pin_dir))


def install(pin_dir: Path, settings: Settings, addresses: Iterable[Address]) -> None:
    """Loads a hold's programs, pins them in a directory and attaches them; the phase is PASS.

    Raises:
        NativeError: it cannot be done; what was done `uninstall` removes. A note of the exception
            holds the verifier's own words.
    """
    ffi, lib = binding()
    raw: Any = ffi.new("struct pf_hold_settings *")
    for name in ("max_bytes", "max_packets", "pod_ifindex", "plug_ifindex", "far_ifindex"):
        setattr(raw, name, getattr(settings, name))
    raw.flags = int(settings.flags)
    raw.pod_mac[0 : len(settings.pod_mac)] = settings.pod_mac
    keys = [packed(address) for address in addresses]
    log = ffi.new("char[]", VERIFIER_LOG_BYTES)
    try:
        call(
            lib.pf_hold_install,
            bytes(pin_dir),
            raw,
            b"".join(keys),
            len(keys),
            log,
            VERIFIER_LOG_BYTES,
        )
    except NativeError as error:
        error.add_note(text(log))
        raise


def uninstall(pin_dir: Path) -> None:
    """Detaches and unpins what is in a directory, which stays; nothing if there is none.

    Raises:
        NativeError: something cannot be unpinned.
    """
    call(binding()[1].pf_hold_uninstall, bytes(pin_dir))


@dataclass(slots=True)
class InstalledHold:
    """An installed hold, opened by its pins; `close` lets its file descriptors go.

    Raises:
        NativeError: ENOENT, a pin is missing.
    """

    pin_dir: Path
    _handle: Any = field(init=False, repr=False)

    def __post_init__(self) -> None:
        ffi, lib = binding()
        self._handle = ffi.NULL
        out = ffi.new("struct pf_hold **")
        call(lib.pf_hold_open, out, bytes(self.pin_dir))
        self._handle = out[0]

    def close(self) -> None:
        """Lets go; what is pinned stays. A second call does nothing."""
        ffi, lib = binding()
        handle, self._handle = self._handle, ffi.NULL
        lib.pf_hold_close(handle)

    @property
    def phase_fd(self) -> int:
        """The map whose element 0 is the phase; valid until `close`."""
        return binding()[1].pf_hold_phase_fd(self._open())

    @property
    def events_fd(self) -> int:
        """Readable from the waking packet until it is taken; valid until `close`."""
        return binding()[1].pf_hold_events_fd(self._open())

    def phase(self) -> Phase:
        """What happens to packets now."""
        out = binding()[0].new("uint32_t *")
        call(binding()[1].pf_hold_read_phase, self._open(), out)
        return Phase(int(out[0]))

    def set_phase(self, phase: Phase) -> None:
        """Changes what happens to packets, from the next one on."""
        call(binding()[1].pf_hold_write_phase, self._open(), int(phase))

    def settings(self) -> Settings:
        """What it was made with."""
        raw: Any = binding()[0].new("struct pf_hold_settings *")
        call(binding()[1].pf_hold_read_settings, self._open(), raw)
        numbers = ("pod_ifindex", "plug_ifindex", "far_ifindex", "max_packets", "max_bytes")
        values = {name: int(getattr(raw, name)) for name in numbers}
        return Settings(**values, flags=Flag(int(raw.flags)), pod_mac=bytes(raw.pod_mac))

    def counters(self) -> Counters:
        """What it has seen since its last arming."""
        raw: Any = binding()[0].new("struct pf_hold_counters *")
        call(binding()[1].pf_hold_read_counters, self._open(), raw)
        return Counters(**{item.name: int(getattr(raw, item.name)) for item in fields(Counters)})

    def addresses(self) -> frozenset[Address]:
        """The pod's addresses."""
        ffi, lib = binding()
        out = ffi.new("uint8_t[]", lib.PF_HOLD_ADDRESSES_MAX * ADDRESS_BYTES)
        count = ffi.new("size_t *")
        call(lib.pf_hold_read_addresses, self._open(), out, count)
        raw = bytes(ffi.buffer(out))[: int(count[0]) * ADDRESS_BYTES]
        starts = range(0, len(raw), ADDRESS_BYTES)
        return frozenset(_native_target.unpacked(raw[at : at + ADDRESS_BYTES]) for at in starts)

    def set_target(self, version: int, target: Target) -> None:
        """Says where packets of an IP version go in the phases FORWARDING and FORWARD.

        Raises:
            NativeError: ENOTSUP, the hold was made by a version that cannot forward.
        """
        raw = target.fill(_native_target.new())
        call(binding()[1].pf_hold_write_target, self._open(), _family(version), raw)

    def target(self, version: int) -> Target | None:
        """Where packets of an IP version go; None where that has not been said."""
        raw = _native_target.new()
        call(binding()[1].pf_hold_read_target, self._open(), _family(version), raw)
        return Target.of(raw)

    def settle(self) -> Phase:
        """Ends a release or forwarding that a packet would end which came now, on this CPU."""
        out = binding()[0].new("uint32_t *")
        call(binding()[1].pf_hold_settle, self._open(), out)
        return Phase(int(out[0]))

    def rearm(self) -> None:
        """Zeroes the counters and drops old events."""
        call(binding()[1].pf_hold_rearm, self._open())

    def listen_again(self) -> None:
        """Has the next waking packet raise an event, also after one was raised and taken."""
        call(binding()[1].pf_hold_listen_again, self._open())

    def take_event(self) -> Waking | None:
        """The packet that wakes the pod, taken out of the buffer."""
        raw: Any = binding()[0].new("struct pf_hold_waking *")
        if not call(binding()[1].pf_hold_take_event, self._open(), raw):
            return None
        return Waking(
            int(raw.time_ns),
            Cause(int(raw.cause)),
            int(raw.protocol),
            _native_target.unpacked(bytes(raw.source)),
            int(raw.source_port),
            _native_target.unpacked(bytes(raw.destination)),
            int(raw.destination_port),
        )

    def test_run(self, program: Program, frame: bytes, *, mark: int = 0) -> int:
        """Runs a program once on a frame, without a device, and gives its verdict.

        Raises:
            NativeError: EINVAL, the frame is shorter than an Ethernet header.
        """
        out = binding()[0].new("uint32_t *")
        test_run = binding()[1].pf_hold_test_run
        call(test_run, self._open(), int(program), frame, len(frame), mark, out)
        return int(out[0])

    def _open(self) -> Any:
        if not self._handle:
            raise ValueError("the hold was closed")
        return self._handle


def _family(version: int) -> int:
    return 0 if version == 4 else 1
