# SPDX-License-Identifier: Apache-2.0
"""Waits, before a freeze, until a pod's kernel holds nothing that a dump would lose.

CRIU keeps no connection that is not accepted yet, none in SYN_RECV, none that a program has closed
(orphans) and no unread datagram. With the hold shut nothing new arrives, so a program that runs at
all has taken the rest within moments. Read by sock_diag (include/uapi/linux/inet_diag.h).
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from shim.errors import NativeError
from shim.network.netns import within

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_ERROR, _DONE = 2, 3
_REQUEST, _DUMP = 0x1, 0x300
_ALL_STATES = 0xFFFFFFFF
# include/net/tcp_states.h
_FIN_WAIT1, _FIN_WAIT2, _TIME_WAIT, _LAST_ACK, _LISTEN, _CLOSING = 4, 5, 6, 9, 10, 11
_SYN_RECV, _NEW_SYN_RECV = 3, 12
_CLOSED_BY_PROGRAM = frozenset({_FIN_WAIT1, _FIN_WAIT2, _LAST_ACK, _CLOSING})
_RECEIVE_BYTES = 1 << 18
_POLL_S = 0.0005
# struct inet_diag_msg: family, state, timer, retrans, then the socket's id (48 bytes), expires,
# rqueue, wqueue, uid, inode.
_MESSAGE = struct.Struct("=BBBB48xIIIII")


class Left(msgspec.Struct, frozen=True, kw_only=True):
    """What a dump would lose now.

    Attributes:
        unaccepted: connections that wait in listeners' queues: their clients are reset, later.
        half_open: connections in SYN_RECV: their clients' SYNs come again.
        orphans: connections that their program has closed and whose end is not acknowledged.
        unread_bytes: of datagrams.
    """

    unaccepted: int = 0
    half_open: int = 0
    orphans: int = 0
    unread_bytes: int = 0

    def __bool__(self) -> bool:
        """Whether there is anything."""
        return bool(self.unaccepted or self.half_open or self.orphans or self.unread_bytes)

    def told(self) -> str:
        """In words, for results; "" for nothing."""
        parts = {
            "connections not accepted": self.unaccepted,
            "connections half open": self.half_open,
            "connections closed but not acknowledged": self.orphans,
            "bytes of datagrams not read": self.unread_bytes,
        }
        return ", ".join(f"{count} {what}" for what, count in parts.items() if count)


def drain(netns: Path, deadline_s: float) -> Left:
    """Waits until nothing is left, but not for long; the hold is shut already.

    A half-open or closed connection needs its peer's packets, which the hold keeps: for those it
    does not wait longer than for the others.

    Args:
        netns: the pod's network namespace.
        deadline_s: how long at most, in seconds.

    Raises:
        NotFound: there is no such namespace.
        NativeError: the kernel does not list sockets.
    """
    return within(netns, lambda: _drain(deadline_s))


def _drain(deadline_s: float) -> Left:
    until_s = time.monotonic() + deadline_s
    # A packet that was under way when the hold was shut reaches its socket within this.
    time.sleep(_POLL_S)
    with socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG
    ) as netlink:
        while True:
            left = _look(netlink)
            waiting = left.unaccepted or left.unread_bytes
            if not waiting or time.monotonic() > until_s:
                return left
            time.sleep(_POLL_S)


def _look(netlink: socket.socket) -> Left:
    unaccepted = half_open = orphans = unread_bytes = 0
    for family in (socket.AF_INET, socket.AF_INET6):
        for state, queued, inode in _sockets(netlink, family, socket.IPPROTO_TCP):
            if state == _LISTEN:
                unaccepted += queued
            elif state in (_SYN_RECV, _NEW_SYN_RECV):
                half_open += 1
            elif state in _CLOSED_BY_PROGRAM and not inode:
                orphans += 1
        for protocol in (socket.IPPROTO_UDP, socket.IPPROTO_UDPLITE):
            for _, queued, _ in _sockets(netlink, family, protocol):
                unread_bytes += queued
    return Left(
        unaccepted=unaccepted, half_open=half_open, orphans=orphans, unread_bytes=unread_bytes
    )


def _sockets(netlink: socket.socket, family: int, protocol: int) -> Iterator[tuple[int, int, int]]:
    """State, bytes (of a listener: connections) that wait to be read, inode, of each socket."""
    body = struct.pack("=BBBxI48x", family, protocol, 0, _ALL_STATES)
    header = struct.pack("=IHHII", 16 + len(body), _SOCK_DIAG_BY_FAMILY, _REQUEST | _DUMP, 0, 0)
    netlink.send(header + body)
    while True:
        data = netlink.recv(_RECEIVE_BYTES)
        at = 0
        while at + 16 <= len(data):
            length, kind = struct.unpack_from("=IH", data, at)
            if kind == _DONE:
                return
            if kind == _ERROR:
                code = -struct.unpack_from("=i", data, at + 16)[0]
                if code == 2:  # ENOENT: the kernel has no such protocol
                    return
                raise NativeError(
                    f"sockets cannot be listed: {os.strerror(code)}", errno_value=code
                )
            _, state, _, _, _, queued, _, _, inode = _MESSAGE.unpack_from(data, at + 16)
            yield state, queued, inode
            at += (length + 3) & ~3
