# SPDX-License-Identifier: Apache-2.0
"""Takes a TCP connection out of one network namespace and puts it into another, as CRIU does.

TCP_REPAIR: include/uapi/linux/tcp.h; the order of steps is that of the kernel's own checks.
"""

from __future__ import annotations

import fcntl
import socket
import struct
from dataclasses import dataclass

from tests.bpf.hold_net import PATIENCE_S
from tests.bpf.reroute_net import Place

TCP_REPAIR, TCP_REPAIR_QUEUE, TCP_QUEUE_SEQ, TCP_REPAIR_OPTIONS = 19, 20, 21, 22
TCP_TIMESTAMP, TCP_REPAIR_WINDOW = 24, 29
RECEIVE_QUEUE, SEND_QUEUE = 1, 2
OPTION_MSS, OPTION_WINDOW, OPTION_SACK, OPTION_TIMESTAMP = 2, 3, 4, 8
SIOCINQ, SIOCOUTQ, SIOCOUTQNSD = 0x541B, 0x5411, 0x894B
TCPI_TIMESTAMPS, TCPI_SACK, TCPI_WSCALE = 1, 2, 4
CHUNK_BYTES = 1 << 15


@dataclass(frozen=True)
class Connection:
    """All that a kernel knows of an established connection."""

    family: int
    local: tuple[str, int]
    peer: tuple[str, int]
    receive_seq: int
    received: bytes
    send_seq: int
    sent: bytes
    unsent: bytes
    mss: int
    options: int
    scales: int
    timestamp: int
    window: bytes


def _set(one: socket.socket, option: int, value: int) -> None:
    one.setsockopt(socket.IPPROTO_TCP, option, value)


def _queue(one: socket.socket, queue: int, length: int) -> tuple[int, bytes]:
    _set(one, TCP_REPAIR_QUEUE, queue)
    seq = one.getsockopt(socket.IPPROTO_TCP, TCP_QUEUE_SEQ) & 0xFFFFFFFF
    data = one.recv(length, socket.MSG_PEEK) if length else b""
    assert len(data) == length
    return seq, data


def _length(one: socket.socket, request: int) -> int:
    return int(struct.unpack("=i", fcntl.ioctl(one, request, bytes(4)))[0])


def take(one: socket.socket) -> Connection:
    """Reads a connection and closes it without a word to its peer."""
    local, peer = one.getsockname()[:2], one.getpeername()[:2]
    one.setblocking(True)
    _set(one, TCP_REPAIR, 1)
    inq, outq, unsent = (_length(one, what) for what in (SIOCINQ, SIOCOUTQ, SIOCOUTQNSD))
    info = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    receive_seq, received = _queue(one, RECEIVE_QUEUE, inq)
    send_seq, queued = _queue(one, SEND_QUEUE, outq)
    taken = Connection(
        one.family,
        local,
        peer,
        receive_seq,
        received,
        send_seq,
        queued[: outq - unsent],
        queued[outq - unsent :],
        one.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG),
        info[5],
        (info[6] & 0xF) | (info[6] >> 4) << 16,
        one.getsockopt(socket.IPPROTO_TCP, TCP_TIMESTAMP) & 0xFFFFFFFF,
        one.getsockopt(socket.IPPROTO_TCP, TCP_REPAIR_WINDOW, 20),
    )
    one.close()
    return taken


def _send(one: socket.socket, data: bytes) -> None:
    for at in range(0, len(data), CHUNK_BYTES):
        one.sendall(data[at : at + CHUNK_BYTES])


def _signed(seq: int) -> int:
    return struct.unpack("=i", struct.pack("=I", seq & 0xFFFFFFFF))[0]


def put(place: Place, taken: Connection) -> socket.socket:
    """The connection in another namespace, still in repair mode: it is silent until `wake`."""
    one = place.socket(taken.family, socket.SOCK_STREAM)
    one.settimeout(None)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    for option in (32, 33):  # SO_SNDBUFFORCE, SO_RCVBUFFORCE: the queues must fit
        one.setsockopt(socket.SOL_SOCKET, option, 1 << 23)
    _set(one, TCP_REPAIR, 1)
    if taken.family == socket.AF_INET6:
        one.setsockopt(socket.IPPROTO_IPV6, 78, 1)  # IPV6_FREEBIND: nodad or not
    for queue, seq, data in (
        (SEND_QUEUE, taken.send_seq, taken.sent + taken.unsent),
        (RECEIVE_QUEUE, taken.receive_seq, taken.received),
    ):
        _set(one, TCP_REPAIR_QUEUE, queue)
        _set(one, TCP_QUEUE_SEQ, _signed(seq - len(data)))
    one.bind(taken.local)
    one.connect(taken.peer)
    options = [(OPTION_MSS, taken.mss)]
    if taken.options & TCPI_WSCALE:
        options.append((OPTION_WINDOW, taken.scales))
    if taken.options & TCPI_SACK:
        options.append((OPTION_SACK, 0))
    if taken.options & TCPI_TIMESTAMPS:
        options.append((OPTION_TIMESTAMP, 0))
    packed = b"".join(struct.pack("=II", *option) for option in options)
    one.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR_OPTIONS, packed)
    if taken.options & TCPI_TIMESTAMPS:
        _set(one, TCP_TIMESTAMP, _signed(taken.timestamp))
    _set(one, TCP_REPAIR_QUEUE, RECEIVE_QUEUE)
    _send(one, taken.received)
    _set(one, TCP_REPAIR_QUEUE, SEND_QUEUE)
    _send(one, taken.sent)
    one.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR_WINDOW, taken.window)
    return one


def wake(one: socket.socket, taken: Connection) -> None:
    """Has it speak again, as CRIU's resume does."""
    _set(one, TCP_REPAIR_QUEUE, 0)
    _set(one, TCP_REPAIR, 0)
    one.settimeout(PATIENCE_S)
    _send(one, taken.unsent)
