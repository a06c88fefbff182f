# SPDX-License-Identifier: Apache-2.0
"""The one place where Python meets the C library: its calls with Python's types and errors.

What is large has a module of its own beside this one (shim._native_hold), which gets the library
from `binding` and imports no extension itself.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from shim.errors import MissingFeature, NativeError

if TYPE_CHECKING:
    from cffi import FFI

    from shim._native_ffi import Lib

VERIFIER_LOG_BYTES = 1 << 20

# The prefix of an IPv4-mapped IPv6 address, RFC 4291 section 2.5.5.2.
_MAPPED = b"\0" * 10 + b"\xff\xff"


@functools.cache
def binding() -> tuple[FFI, Lib]:
    """The extension; for the modules named shim._native_*, which wrap parts of the library.

    Raises:
        MissingFeature: it is not built, or a library it needs is not installed.
    """
    # Not at import: shim is used without a compiler having run, for what needs no kernel.
    try:
        from shim import _native_ffi
    except ImportError as error:
        raise MissingFeature(
            f"the native library cannot be loaded: {error}",
            where="shim._native_ffi",
            remedy="install podferry's wheel, or build it with `pip install .` (docs/doctor.md)",
        ) from error
    return _native_ffi.ffi, _native_ffi.lib


def require() -> None:
    """Loads the extension.

    Raises:
        MissingFeature: it is not built, or a library it needs is not installed.
    """
    binding()


def check(code: int, err: Any) -> int:
    """Turns a failed call's code and error structure into an exception, and passes the rest on.

    Raises:
        NativeError: ``code`` is negative.
    """
    if code >= 0:
        return code
    raise NativeError(text(err.message), errno_value=-code)


def text(characters: Any) -> str:
    """A C string, whatever its bytes."""
    value = binding()[0].string(characters)
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def call(function: Callable[..., int], *arguments: Any) -> int:
    """Calls a function of the library, whose last argument is the error structure.

    Raises:
        NativeError: it fails.
    """
    ffi, _ = binding()
    err = ffi.new("struct pf_error *")
    return check(function(*arguments, err), err)


class Feature(enum.StrEnum):
    """What `prove` can prove; each is a ``pf_probe_`` function of the library."""

    PAGEMAP_SCAN = "pagemap_scan"
    SOFT_DIRTY = "soft_dirty"
    PROCESS_VM_READV = "process_vm_readv"
    SET_TID = "set_tid"
    PIDFD_GETFD = "pidfd_getfd"
    PTRACE = "ptrace"
    TCP_REPAIR = "tcp_repair"
    XDP_GENERIC = "xdp_generic"
    TCX = "tcx"
    CLSACT = "clsact"


def prove(feature: Feature) -> None:
    """Uses a kernel feature on something of its own and looks at the outcome.

    Raises:
        NativeError: it does not work; the message names the step.
        MissingFeature: the extension is not there.
    """
    _, lib = binding()
    call(getattr(lib, f"pf_probe_{feature}"))


def prove_link_kind(kind: str) -> None:
    """Makes a network device of a kind in a namespace of its own; raises as `prove`."""
    call(binding()[1].pf_probe_link_kind, kind.encode())


def prove_qdisc_kind(kind: str) -> None:
    """Gives a loopback of its own a queueing discipline of a kind; raises as `prove`."""
    call(binding()[1].pf_probe_qdisc_kind, kind.encode())


def userfaultfd_features() -> int:
    """Fills a missing page by userfaultfd and gives the kernel's UFFD_FEATURE bits.

    Raises:
        NativeError: it does not work.
    """
    ffi, lib = binding()
    features = ffi.new("uint64_t *")
    call(lib.pf_probe_userfaultfd, features)
    return int(features[0])


def sock_diag_families() -> frozenset[str]:
    """The families of sockets that the kernel lists through sock_diag.

    Raises:
        NativeError: sock_diag does not work at all.
    """
    ffi, lib = binding()
    present = ffi.new("uint32_t *")
    call(lib.pf_probe_sock_diag, present)
    bits = {
        "tcp": lib.PF_DIAG_TCP,
        "udp": lib.PF_DIAG_UDP,
        "unix": lib.PF_DIAG_UNIX,
        "packet": lib.PF_DIAG_PACKET,
        "netlink": lib.PF_DIAG_NETLINK,
    }
    return frozenset(name for name, bit in bits.items() if present[0] & bit)


class Program(enum.Enum):
    """The programs of bpf/activity: for an uplink, and for the host end of a pod's veth."""

    XDP = "PF_ACTIVITY_XDP"
    TC = "PF_ACTIVITY_TC"


@dataclass(frozen=True, slots=True)
class Direction:
    """Packets of one direction.

    Attributes:
        last_ns: CLOCK_MONOTONIC of the last one, 0 if there was none.
        packets: how many.
        byte_count: their frames' bytes.
    """

    last_ns: int
    packets: int
    byte_count: int


@dataclass(frozen=True, slots=True)
class Record:
    """What was seen of a watched address."""

    received: Direction
    sent: Direction


class Activity:
    """The activity programs, loaded; a context manager that lets them go.

    Args:
        pin_dir: directory of a bpf file system where the counts outlive the process, None for none.

    Raises:
        NativeError: the kernel does not load them; a note of the exception holds the verifier's
            own words.
    """

    def __init__(self, pin_dir: Path | None = None) -> None:
        ffi, lib = binding()
        out = ffi.new("struct pf_activity **")
        log = ffi.new("char[]", VERIFIER_LOG_BYTES)
        path = ffi.NULL if pin_dir is None else bytes(pin_dir)
        try:
            call(lib.pf_activity_open, out, path, log, VERIFIER_LOG_BYTES)
        except NativeError as error:
            error.add_note(text(log))
            raise
        self._handle: Any = out[0]

    def __enter__(self) -> Activity:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Lets go; what is pinned or attached stays. A second call does nothing."""
        ffi, lib = binding()
        handle, self._handle = self._handle, ffi.NULL
        lib.pf_activity_close(handle)

    def program_fd(self, program: Program) -> int:
        """The program's file descriptor, valid until `close`."""
        _, lib = binding()
        return lib.pf_activity_program_fd(self._open(), getattr(lib, program.value))

    def watch(self, address: IPv4Address | IPv6Address) -> None:
        """Starts counting at zero.

        Raises:
            NativeError: EEXIST, it is watched already; E2BIG, no more fit.
        """
        call(binding()[1].pf_activity_watch, self._open(), packed(address))

    def unwatch(self, address: IPv4Address | IPv6Address) -> None:
        """Stops counting.

        Raises:
            NativeError: ENOENT, it is not watched.
        """
        call(binding()[1].pf_activity_unwatch, self._open(), packed(address))

    def read(self, address: IPv4Address | IPv6Address) -> Record:
        """What was seen of an address since it is watched.

        Raises:
            NativeError: ENOENT, it is not watched.
        """
        ffi, lib = binding()
        out: Any = ffi.new("struct pf_activity_record *")
        call(lib.pf_activity_read, self._open(), packed(address), out)
        return Record(_direction(out.received), _direction(out.sent))

    def test_run(self, program: Program, frame: bytes) -> int:
        """Runs a program once on a frame, without a device, and gives its verdict.

        Raises:
            NativeError: EINVAL, the frame is shorter than an Ethernet header.
        """
        ffi, lib = binding()
        verdict = ffi.new("uint32_t *")
        number = getattr(lib, program.value)
        call(lib.pf_activity_test_run, self._open(), number, frame, len(frame), verdict)
        return int(verdict[0])

    def _open(self) -> Any:
        if not self._handle:
            raise ValueError("the activity programs were closed")
        return self._handle


def packed(address: IPv4Address | IPv6Address) -> bytes:
    """The 16 bytes under which the programs know an address: IPv4 in its mapped form."""
    return _MAPPED + address.packed if isinstance(address, IPv4Address) else address.packed


def _direction(part: Any) -> Direction:
    return Direction(int(part.last_ns), int(part.packets), int(part.bytes))
