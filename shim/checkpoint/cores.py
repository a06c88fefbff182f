# SPDX-License-Identifier: Apache-2.0
"""Corrects the registers in CRIU's images so that an interrupted timed call is made again.

A thread that is stopped in nanosleep, poll or a futex with a timeout holds the remaining time in
the kernel (ERESTART_RESTARTBLOCK), which no image can carry. CRIU lets such a call return EINTR;
no program expects that without a signal handler, and `sleep 86400` ends (tried with busybox). Here
the call is made again with its own arguments, as CRIU does with all other interrupted calls: the
time asleep does not count, and a wait may start over.
"""

from __future__ import annotations

import errno
import struct
from pathlib import Path

from google.protobuf.message import DecodeError

from cri_proto import criu_core_pb2 as pb
from shim.errors import InvalidMessage

_COMMON_MAGIC = 0x54564319  # criu/include/magic.h of CRIU 4.2
_CORE_MAGIC = 0x55053847
_HEADER = struct.Struct("<III")
_X86_64 = 1
_EINTR = (1 << 64) - errno.EINTR
_SYSCALL_BYTES = 2  # the instruction, 0f 05
# poll, nanosleep, futex, clock_nanosleep (asm/unistd_64.h): all that use a restart block. A call
# that was interrupted before is restart_syscall (219), whose own number is lost: it stays EINTR.
_TIMED = frozenset({7, 35, 202, 230})


def make_calls_again(images_dir: Path) -> int:
    """Corrects every thread in ``images_dir``; returns how many calls will be made again.

    Raises:
        InvalidMessage: an image is not as CRIU 4.2 writes it; it is left as it is.
    """
    corrected = 0
    for path in sorted(images_dir.glob("core-*.img")):
        before = path.read_bytes()
        try:
            after = corrected_image(before)
        except (DecodeError, struct.error, ValueError) as error:
            raise InvalidMessage(f"no thread of CRIU 4: {error}", where=str(path)) from error
        if after is not None:
            path.write_bytes(after)
            corrected += 1
    return corrected


def corrected_image(data: bytes) -> bytes | None:
    """A core image whose call is made again; None if it was not interrupted in a timed one.

    Raises:
        ValueError: another kind of file.
    """
    common, magic, length = _HEADER.unpack_from(data)
    if (common, magic) != (_COMMON_MAGIC, _CORE_MAGIC):
        raise ValueError("the magic number is another one")
    entry = pb.core_entry.FromString(data[_HEADER.size : _HEADER.size + length])
    registers = entry.thread_info.gpregs
    if entry.mtype != _X86_64 or registers.mode > 1:
        return None
    if registers.ax != _EINTR or registers.orig_ax not in _TIMED:
        return None
    registers.ax = registers.orig_ax
    registers.ip -= _SYSCALL_BYTES
    body = entry.SerializeToString()
    return _HEADER.pack(common, magic, len(body)) + body + data[_HEADER.size + length :]
