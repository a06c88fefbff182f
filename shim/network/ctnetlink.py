# SPDX-License-Identifier: Apache-2.0
"""Reads and writes this node's connection tracking (ctnetlink): the few fields that a move needs.

Layouts: include/uapi/linux/netfilter/{nfnetlink,nfnetlink_conntrack,nf_conntrack_common}.h. Numbers
are in network byte order there.
"""

from __future__ import annotations

import errno
import functools
import os
import socket
import struct
from collections.abc import Callable, Iterable, Iterator
from ipaddress import ip_address

from shim.core.flows import Entry, Tuple
from shim.errors import NativeError

_NETLINK_NETFILTER = 12
_NEW, _GET, _DELETE = 0x0100, 0x0101, 0x0102
_ERROR, _DONE = 2, 3
_REQUEST, _ACK, _DUMP, _EXCLUSIVE, _CREATE = 0x1, 0x4, 0x300, 0x200, 0x400
_NESTED, _KIND = 0x8000, 0x3FFF
_ORIGINAL, _REPLY, _STATUS, _PROTOINFO, _TIMEOUT, _ZONE = 1, 2, 3, 4, 7, 18
_NAT_SOURCE, _NAT_DESTINATION = 6, 13
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_V4_SOURCE, _V4_DESTINATION, _V6_SOURCE, _V6_DESTINATION = 1, 2, 3, 4
_PROTO_NUMBER, _PROTO_SOURCE_PORT, _PROTO_DESTINATION_PORT = 1, 2, 3
_TCP, _TCP_STATE, _TCP_SCALE_ORIGINAL, _TCP_SCALE_REPLY = 1, 1, 2, 3
_TCP_FLAGS_ORIGINAL, _TCP_FLAGS_REPLY = 4, 5
_NAT_V4_MIN, _NAT_V4_MAX, _NAT_PROTO, _NAT_V6_MIN, _NAT_V6_MAX = 1, 2, 3, 4, 5
_NAT_PORT_MIN, _NAT_PORT_MAX = 1, 2
# IPS_SEEN_REPLY | IPS_ASSURED | IPS_CONFIRMED: no rule is asked about it any more.
_SETTLED = 0x2 | 0x4 | 0x8
_BE_LIBERAL = 0x08  # IP_CT_TCP_FLAG_BE_LIBERAL
_IPPROTO_TCP = 6
_TRIES = 3
_CLOSED = frozenset({7, 8})  # TIME_WAIT, CLOSE of enum tcp_conntrack
_GONE, _THERE = errno.ENOENT, errno.EEXIST
_RECEIVE_BYTES = 1 << 20
_ADDRESSES = 4096
_BATCH = 64


def dump(addresses: Iterable[str], *, open_only: bool = False) -> list[Entry]:
    """All entries that have one of some addresses in either direction.

    None where the kernel tracks no connections: then it rewrites none either.

    Args:
        addresses: of a pod.
        open_only: leaves out TCP connections that both sides have closed; of short connections
            there may be thousands, kept for two minutes.

    Raises:
        NativeError: the kernel refuses.
    """
    wanted = [ip_address(one).packed for one in addresses]
    found = []
    with _socket() as netlink:
        netlink.send(_message(_GET, _REQUEST | _DUMP, socket.AF_UNSPEC, b""))
        for body in _entries(netlink):
            # Most of a node's entries are others': not worth parsing.
            if any(one in body for one in wanted):
                entry = _parsed(body, open_only=open_only)
                if entry is not None and _has(entry, addresses):
                    found.append(entry)
    return found


def create(entries: Iterable[Entry]) -> None:
    """Makes entries, settled, that never judge a TCP window; replaces those of the same tuples."""
    # Inside a freeze: most of them are not there, so only those that are get removed first.
    refused = _each(entries, _composed, _THERE)
    for _ in range(_TRIES):
        refused = _replace(refused)
    # A packet that this node sends on makes its entry anew before ours is there. It says the same,
    # but for how strictly it judges.
    _each((one for one in refused if one.protocol == _IPPROTO_TCP), _loosened, _THERE)


def _replace(entries: list[Entry]) -> list[Entry]:
    """Removes and makes each in one message to the kernel; gives those that were there again."""
    refused = []
    with _socket() as netlink:
        for one in entries:
            keys = _key(one), _tuple(_REPLY, one.protocol, one.reply)
            removals = [_message(_DELETE, _REQUEST | _ACK, _family(one), key) for key in keys]
            *_, code = _exchange(netlink, [*removals, _composed(one)], _THERE)
            if code == _THERE:
                refused.append(one)
    return refused


def loosen(entries: Iterable[Entry]) -> None:
    """Has entries stop judging TCP windows and the device that packets leave by.

    They see one direction only from now on. A masqueraded entry is bound to its device, and the
    kernel kills it when a packet leaves by another: it is made anew, translated as before.
    """
    known = list(entries)
    bound = [one for one in known if one.rewrites_source]
    _each((one for one in known if one.protocol == _IPPROTO_TCP and one not in bound), _loosened)
    create(bound)


def delete(entries: Iterable[Entry]) -> None:
    """Forgets entries."""
    _each(entries, lambda one: _message(_DELETE, _REQUEST | _ACK, _family(one), _key(one)))


def _has(entry: Entry, addresses: Iterable[str]) -> bool:
    tuples = entry.original, entry.reply
    return any(one in (each.source, each.destination) for one in addresses for each in tuples)


def _socket() -> socket.socket:
    made = socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER
    )
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BYTES)
    return made


def _each(
    entries: Iterable[Entry], compose: Callable[[Entry], bytes], tolerated: int = _GONE
) -> list[Entry]:
    """Sends a message for each entry; gives those that were answered by the tolerated error."""
    pending = list(entries)
    refused: list[Entry] = []
    with _socket() as netlink:
        for at in range(0, len(pending), _BATCH):
            batch = pending[at : at + _BATCH]
            answers = _exchange(netlink, [compose(one) for one in batch], tolerated)
            refused += [one for one, code in zip(batch, answers, strict=True) if code == tolerated]
    return refused


def _exchange(netlink: socket.socket, messages: list[bytes], tolerated: int) -> list[int]:
    """Sends messages and takes the answers in, which come in their order; other errors raise."""
    netlink.send(b"".join(messages))
    answers: list[int] = []
    while len(answers) < len(messages):
        for kind, body in _split(netlink.recv(_RECEIVE_BYTES)):
            if kind == _ERROR:
                answers.append(-struct.unpack_from("=i", body)[0])
    failed = [code for code in answers if code not in (0, _GONE, tolerated)]
    if failed:
        raise NativeError(
            f"connection tracking refuses an entry: {os.strerror(failed[0])}",
            errno_value=failed[0],
        )
    return answers


def _entries(netlink: socket.socket) -> Iterator[bytes]:
    while True:
        for kind, body in _split(netlink.recv(_RECEIVE_BYTES)):
            if kind == _DONE:
                return
            if kind != _ERROR:
                yield body
                continue
            code = -struct.unpack_from("=i", body)[0]
            if code == errno.EINVAL:  # the subsystem is not there
                return
            raise NativeError(
                f"connection tracking cannot be read: {os.strerror(code)}", errno_value=code
            )


def _split(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 16 <= len(data):
        length, kind = struct.unpack_from("=IH", data, at)
        yield kind, data[at + 16 : at + length]
        at += (length + 3) & ~3


def _attributes(data: bytes) -> dict[int, bytes]:
    found, at = {}, 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        if length < 4:
            break
        found[kind & _KIND] = data[at + 4 : at + length]
        at += (length + 3) & ~3
    return found


def _parsed(body: bytes, *, open_only: bool) -> Entry | None:
    """An entry of a protocol with ports, of the zone that everybody shares; None for another."""
    known = _attributes(body[4:])
    if _ZONE in known or _ORIGINAL not in known or _REPLY not in known:
        return None
    tcp = _attributes(_attributes(known.get(_PROTOINFO, b"")).get(_TCP, b""))
    state = tcp.get(_TCP_STATE, b"\0")[0]
    if open_only and state in _CLOSED:
        return None
    original, reply = _parsed_tuple(known[_ORIGINAL]), _parsed_tuple(known[_REPLY])
    if original is None or reply is None:
        return None
    return Entry(
        protocol=original[0],
        original=original[1],
        reply=reply[1],
        timeout_s=int.from_bytes(known.get(_TIMEOUT, b"\0\0\0\x1e"), "big"),
        tcp_state=state,
        tcp_scales=(
            tcp.get(_TCP_SCALE_ORIGINAL, b"\0")[0],
            tcp.get(_TCP_SCALE_REPLY, b"\0")[0],
        ),
    )


def _parsed_tuple(data: bytes) -> tuple[int, Tuple] | None:
    parts = _attributes(data)
    ip, proto = _attributes(parts.get(_TUPLE_IP, b"")), _attributes(parts.get(_TUPLE_PROTO, b""))
    source = ip.get(_V4_SOURCE) or ip.get(_V6_SOURCE)
    destination = ip.get(_V4_DESTINATION) or ip.get(_V6_DESTINATION)
    if not source or not destination or _PROTO_SOURCE_PORT not in proto:
        return None
    return proto[_PROTO_NUMBER][0], Tuple(
        _text(source),
        int.from_bytes(proto[_PROTO_SOURCE_PORT], "big"),
        _text(destination),
        int.from_bytes(proto[_PROTO_DESTINATION_PORT], "big"),
    )


def _composed(entry: Entry) -> bytes:
    # The kernel derives the answering tuple from the original one and the translation.
    plain = entry.original.turned()
    body = _key(entry) + _tuple(_REPLY, entry.protocol, plain)
    body += _attribute(_STATUS, struct.pack("!I", _SETTLED))
    body += _attribute(_TIMEOUT, struct.pack("!I", max(entry.timeout_s, 1)))
    if entry.protocol == _IPPROTO_TCP:
        body += _protoinfo(entry, whole=True)
    if entry.rewrites_destination:
        body += _translation(_NAT_DESTINATION, *entry.reply.sender)
    if entry.rewrites_source:
        body += _translation(_NAT_SOURCE, *entry.reply.receiver)
    return _message(_NEW, _REQUEST | _ACK | _CREATE | _EXCLUSIVE, _family(entry), body)


def _loosened(entry: Entry) -> bytes:
    body = _key(entry) + _protoinfo(entry, whole=False)
    return _message(_NEW, _REQUEST | _ACK, _family(entry), body)


def _protoinfo(entry: Entry, *, whole: bool) -> bytes:
    liberal = struct.pack("=BB", _BE_LIBERAL, _BE_LIBERAL)
    parts = b""
    if whole:
        parts += _attribute(_TCP_STATE, bytes([entry.tcp_state]))
        parts += _attribute(_TCP_SCALE_ORIGINAL, bytes([entry.tcp_scales[0]]))
        parts += _attribute(_TCP_SCALE_REPLY, bytes([entry.tcp_scales[1]]))
    parts += _attribute(_TCP_FLAGS_ORIGINAL, liberal) + _attribute(_TCP_FLAGS_REPLY, liberal)
    return _nest(_PROTOINFO, _nest(_TCP, parts))


def _translation(kind: int, host: str, number: int) -> bytes:
    address = _packed(host)
    low, high = (_NAT_V4_MIN, _NAT_V4_MAX) if len(address) == 4 else (_NAT_V6_MIN, _NAT_V6_MAX)
    port = struct.pack("!H", number)
    ports = _attribute(_NAT_PORT_MIN, port) + _attribute(_NAT_PORT_MAX, port)
    ends = _attribute(low, address) + _attribute(high, address)
    return _nest(kind, ends + _nest(_NAT_PROTO, ports))


def _key(entry: Entry) -> bytes:
    return _tuple(_ORIGINAL, entry.protocol, entry.original)


def _tuple(kind: int, protocol: int, one: Tuple) -> bytes:
    source, destination = _packed(one.source), _packed(one.destination)
    is_ipv4 = len(source) == 4
    ip = _attribute(_V4_SOURCE if is_ipv4 else _V6_SOURCE, source)
    ip += _attribute(_V4_DESTINATION if is_ipv4 else _V6_DESTINATION, destination)
    proto = _attribute(_PROTO_NUMBER, bytes([protocol]))
    proto += _attribute(_PROTO_SOURCE_PORT, struct.pack("!H", one.source_port))
    proto += _attribute(_PROTO_DESTINATION_PORT, struct.pack("!H", one.destination_port))
    return _nest(kind, _nest(_TUPLE_IP, ip) + _nest(_TUPLE_PROTO, proto))


def _family(entry: Entry) -> int:
    is_ipv4 = len(_packed(entry.original.source)) == 4
    return socket.AF_INET if is_ipv4 else socket.AF_INET6


@functools.lru_cache(_ADDRESSES)
def _text(address: bytes) -> str:
    return str(ip_address(address))


@functools.lru_cache(_ADDRESSES)
def _packed(address: str) -> bytes:
    return ip_address(address).packed


def _nest(kind: int, payload: bytes) -> bytes:
    return _attribute(kind | _NESTED, payload)


def _attribute(kind: int, payload: bytes) -> bytes:
    padding = bytes(-len(payload) % 4)
    return struct.pack("=HH", 4 + len(payload), kind) + payload + padding


def _message(kind: int, flags: int, family: int, body: bytes) -> bytes:
    header = struct.pack("=IHHIIBBH", 20 + len(body), kind, flags, 0, 0, family, 0, 0)
    return header + body
