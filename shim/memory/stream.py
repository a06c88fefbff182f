# SPDX-License-Identifier: Apache-2.0
"""Page streams: memory and image files of a container to another node's page store.

Every call blocks and lets the GIL go. Calls of one sender wait for each other; `Sender.cancel` and
`Sender.progress` may come from any thread at any time. Failures are `NativeError` with an errno:

    ECANCELED      it was cancelled
    ETIMEDOUT      the peer did nothing for the stream's timeout
    ECONNRESET     the connection is broken (EPIPE too): `Sender.resume`, or give up
    ENOTCONN       it was broken before this call
    EREMOTEIO      the peer refuses, in its own words: quota, sealed store, no room
    EPROTO         the peer broke the protocol, or TLS failed
    EKEYREJECTED   a certificate, the peer's or our own
    EBADMSG        the peer does not have what was sent
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from shim._native import binding, call, text
from shim.memory.store import Counts, PageStore

TOKEN_BYTES = 32
DEFAULT_LANES = 2
DEFAULT_TIMEOUT_MS = 5000
TROUBLE_BYTES = 1024

# An array of ``struct pf_run``, whoever owns its memory.
Runs = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files of one end; both verify each other.

    Attributes:
        certificate: of this node, with its chain.
        key: its private key.
        authority: whose certificates are trusted.
    """

    certificate: Path
    key: Path
    authority: Path


@dataclass(frozen=True, slots=True)
class Progress:
    """Running totals of a sender.

    Attributes:
        pages_read: from processes.
        pages_sent: with their bytes.
        pages_zero: told without bytes.
        pages_unchanged: read, and as they were sent before.
        pages_gone: not there any more.
        payload_bytes: on the wire, before encryption.
        file_bytes: of image files.
        writing_ns: all lanes' time in their connections.
        compressed_pages: of those sent.
    """

    pages_read: int
    pages_sent: int
    pages_zero: int
    pages_unchanged: int
    pages_gone: int
    payload_bytes: int
    file_bytes: int
    writing_ns: int
    compressed_pages: int


def make_token() -> bytes:
    """A fresh one; whoever knows it, and has a certificate, may write into a store."""
    return os.urandom(TOKEN_BYTES)


def pack_runs(runs: Iterable[tuple[int, int]]) -> bytearray:
    """An array of ``struct pf_run`` from addresses and numbers of pages."""
    ffi, _ = binding()
    rows = [(vaddr, pages, 0) for vaddr, pages in runs]
    return bytearray(ffi.buffer(ffi.new("struct pf_run[]", rows)))


class Receiver:
    """The target's end: one for all containers that come."""

    def __init__(self) -> None:
        self._handle: Any = None

    def start(
        self, address: str, port: int, tls: TlsFiles, *, timeout_ms: int = DEFAULT_TIMEOUT_MS
    ) -> int:
        """Listens.

        Args:
            address: numeric.
            port: 0 lets the kernel choose.
            tls: this node's.
            timeout_ms: how long a sender may be silent inside a frame; between frames for ever.

        Returns:
            The port.

        Raises:
            NativeError: EKEYREJECTED, the files; EADDRINUSE and its like.
        """
        ffi, lib = binding()
        out, chosen = ffi.new("struct pf_receiver **"), ffi.new("uint16_t *", port)
        raw = _tls(tls)
        call(lib.pf_receiver_start, out, address.encode(), chosen, raw[0], timeout_ms)
        self._handle = out[0]
        return int(chosen[0])

    def expect(
        self, token: bytes, directory: Path, quota_bytes: int, *, peer_name: str | None = None
    ) -> PageStore:
        """Makes a store and lets who shows the token write into it, until `forget`.

        Args:
            token: `TOKEN_BYTES` bytes that only the sender knows.
            directory: of the store; see `PageStore`.
            quota_bytes: of the store.
            peer_name: what the sender's certificate must bear; None for any of the authority.

        Raises:
            NativeError: EEXIST, the directory or the token is in use.
        """
        store = PageStore(directory, quota_bytes)
        name = binding()[0].NULL if peer_name is None else peer_name.encode()
        try:
            expect = binding()[1].pf_receiver_expect
            call(expect, self._open(), _token(token), name, store.handle)
        except BaseException:
            store.remove()
            raise
        return store

    def forget(self, token: bytes) -> None:
        """Ends the token's connections; when this returns nobody writes into its store."""
        binding()[1].pf_receiver_forget(self._open(), _token(token))

    def trouble(self) -> str:
        """Why the last connection that failed has failed; "" if none has."""
        out = binding()[0].new("char[]", TROUBLE_BYTES)
        binding()[1].pf_receiver_read_trouble(self._open(), out, TROUBLE_BYTES)
        return text(out)

    def close(self) -> None:
        """Ends every connection; stores stay. A second call does nothing."""
        handle, self._handle = self._handle, None
        if handle is not None:
            binding()[1].pf_receiver_close(handle)

    def _open(self) -> Any:
        if self._handle is None:
            raise ValueError("the receiver is not started")
        return self._handle


class Sender:
    """The source's end of one container's stream; a context manager that closes it."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    @classmethod
    def open(
        cls,
        address: str,
        port: int,
        tls: TlsFiles,
        token: bytes,
        *,
        peer_name: str,
        lanes: int = DEFAULT_LANES,
        timeout_ms: int = DEFAULT_TIMEOUT_MS,
    ) -> Self:
        """Makes a sender that is not connected yet, so that `cancel` can end its `resume`."""
        ffi, lib = binding()
        kept = (ffi.new("char[]", address.encode()), ffi.new("char[]", peer_name.encode()))
        raw_tls = _tls(tls)
        options: Any = ffi.new("struct pf_sender_options *")
        options.address, options.peer_name = kept
        options.port = port
        options.tls = raw_tls[0][0]
        options.token = _token(token)
        options.lanes = lanes
        options.timeout_ms = timeout_ms
        out = ffi.new("struct pf_sender **")
        call(lib.pf_sender_open, out, options)
        return cls(out[0])

    @classmethod
    def connect(
        cls,
        address: str,
        port: int,
        tls: TlsFiles,
        token: bytes,
        *,
        peer_name: str,
        lanes: int = DEFAULT_LANES,
        timeout_ms: int = DEFAULT_TIMEOUT_MS,
    ) -> Self:
        """Connects to a receiver that expects the token.

        Args:
            address: numeric.
            port: of the receiver.
            tls: this node's.
            token: that the receiver expects.
            peer_name: what the receiver's certificate must bear.
            lanes: parallel connections, each with a thread of its own; 1 to 16.
            timeout_ms: how long the peer may do nothing while something is wanted of it.
        """
        sender = cls.open(
            address, port, tls, token, peer_name=peer_name, lanes=lanes, timeout_ms=timeout_ms
        )
        try:
            sender.resume()
        except BaseException:
            sender.close()
            raise
        return sender

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def resume(self, address: str = "", port: int = 0) -> None:
        """Connects again after a failure, to the same store, where it was or elsewhere.

        The receiver tells what it holds. Send again what was sent since the last `flush`: what did
        arrive is not sent twice. So does a new sender that is connected to a store that has
        something already.
        """
        call(binding()[1].pf_sender_connect, self._open(), address.encode(), port)

    def send_runs(self, host_pid: int, image_pid: int, runs: Runs) -> None:
        """Reads pages of a process and sends those that the peer does not have as they are now.

        When it returns the pages have been read; they have arrived after `flush`. Pages that are
        not there any more are left out.

        Args:
            host_pid: as this process counts; it may run or be stopped.
            image_pid: as CRIU's image will count.
            runs: an array of ``struct pf_run``.

        Raises:
            NativeError: ESRCH, no such process; the stream lives on.
        """
        ffi, lib = binding()
        with ffi.from_buffer("struct pf_run[]", runs) as array:
            call(lib.pf_sender_send_runs, self._open(), host_pid, image_pid, array, len(array))

    def send_directory(self, directory: Path) -> int:
        """Sends the regular files of an image directory; returns their bytes.

        Raises:
            NativeError: EINVAL, a file cannot be read or has no plain name; the stream lives on.
        """
        out = binding()[0].new("uint64_t *")
        call(binding()[1].pf_sender_send_directory, self._open(), bytes(directory), out)
        return int(out[0])

    def forget_process(self, image_pid: int) -> None:
        """Drops a process's memory at the peer: it has ended or executed another program."""
        call(binding()[1].pf_sender_forget_process, self._open(), image_pid)

    def flush(self) -> Counts:
        """Ends a round: returns once the peer has everything, with what it says it has.

        Raises:
            NativeError: EBADMSG, it is not what was sent.
        """
        raw = binding()[0].new("struct pf_store_counts *")
        call(binding()[1].pf_sender_flush, self._open(), raw)
        return Counts.of(raw)

    def serve_page_server(self, fd: int) -> int:
        """Serves CRIU's page-server protocol until CRIU's dump ends; returns the image's bytes.

        CRIU 4.2 takes no page server in a dump with lazy pages over its RPC: this is for dumps
        that carry all memory themselves.

        Args:
            fd: a connected stream socket whose other end CRIU has as ``ps.fd``; stays open.

        Raises:
            NativeError: ECONNRESET, CRIU has ended without saying so: the image is useless.
        """
        out = binding()[0].new("uint64_t *")
        call(binding()[1].pf_page_server_run, self._open(), fd, out)
        return int(out[0])

    def progress(self) -> Progress:
        """Running totals, at any time."""
        raw: Any = binding()[0].new("struct pf_sender_progress *")
        binding()[1].pf_sender_read_progress(self._open(), raw)
        return Progress(*(int(getattr(raw, name)) for name in Progress.__slots__))

    def cancel(self) -> None:
        """Ends what is under way, and everything later, with ECANCELED."""
        binding()[1].pf_sender_cancel(self._open())

    def close(self) -> None:
        """Lets the connections go; no call may be under way. A second call does nothing."""
        handle, self._handle = self._handle, None
        if handle is not None:
            binding()[1].pf_sender_close(handle)

    def _open(self) -> Any:
        if self._handle is None:
            raise ValueError("the sender was closed")
        return self._handle


def _token(token: bytes) -> bytes:
    if len(token) != TOKEN_BYTES:
        raise ValueError(f"a token has {TOKEN_BYTES} bytes, not {len(token)}")
    return token


def _tls(files: TlsFiles) -> tuple[Any, tuple[Any, ...]]:
    """The structure, and what it points to, which must live as long."""
    ffi, _ = binding()
    paths = (files.certificate, files.key, files.authority)
    kept = tuple(ffi.new("char[]", bytes(path)) for path in paths)
    raw: Any = ffi.new("struct pf_stream_tls *")
    raw.certificate, raw.key, raw.authority = kept
    return raw, kept
