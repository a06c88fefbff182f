# SPDX-License-Identifier: Apache-2.0
"""Streams that are refused, broken, cancelled and taken up again."""

from __future__ import annotations

import errno
import random
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shim.errors import NativeError
from shim.memory.stream import Receiver, Sender, make_token, pack_runs
from tests.memory.conftest import LOOPBACK, QUOTA_BYTES, Ends
from tests.memory.fix_stream import Authority, Index, Target
from tests.memory.test_stream import IMAGE_PID, LAZY, PAGES, compare, send_all, send_image

PIECE_BYTES = 16384
BROKEN = {errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EPROTO}


class Relay:
    """Stands between both ends and cuts every connection after so many bytes."""

    def __init__(self, port: int, cut_after: int | None = None) -> None:
        self.server = socket.create_server((LOOPBACK, 0))
        self.port = self.server.getsockname()[1]
        self.cut_after = cut_after
        self.silent = threading.Event()
        self._target = port
        self._passed = 0
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Cuts everything."""
        self.server.close()
        self.cut()

    def cut(self) -> None:
        """Cuts what is open."""
        # A connection that is made meanwhile is another one, and stays.
        cut, self._open = self._open, []
        for one in cut:
            with_linger = b"\1\0\0\0\0\0\0\0"
            try:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, with_linger)
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def _accept(self) -> None:
        while True:
            try:
                ours, _ = self.server.accept()
                theirs = socket.create_connection((LOOPBACK, self._target))
            except OSError:
                return
            self._open += [ours, theirs]
            for one, other in ((ours, theirs), (theirs, ours)):
                threading.Thread(target=self._pass, args=(one, other), daemon=True).start()

    def _pass(self, one: socket.socket, other: socket.socket) -> None:
        try:
            while piece := one.recv(PIECE_BYTES):
                while self.silent.is_set():
                    time.sleep(0.01)
                self._passed += len(piece)
                if self.cut_after is not None and self._passed > self.cut_after:
                    self.cut_after = None
                    self.cut()
                    return
                other.sendall(piece)
            other.shutdown(socket.SHUT_WR)
        except OSError:
            return


@pytest.fixture
def relay(ends: Ends) -> Iterator[Relay]:
    made = Relay(ends.port)
    yield made
    made.close()


def failure(sender: Sender, target: Target) -> int:
    """The errno at which sending ends."""
    with pytest.raises(NativeError) as caught:
        send_all(sender, target)
        sender.flush()
    return caught.value.errno_value


@pytest.mark.parametrize("seed", range(8))
def test_a_stream_that_breaks_anywhere_is_taken_up_again(
    ends: Ends, tmp_path: Path, seed: int
) -> None:
    dice = random.Random(seed)
    relay = Relay(ends.port)
    with Target(PAGES) as target, ends.connect(port=relay.port, lanes=1 + seed % 3) as sender:
        for _ in range(4):
            relay.cut_after = relay._passed + dice.randrange(1, PAGES * 4096)
            for page in dice.sample(range(PAGES), 20):
                target.tell(f"write {page} {dice.randrange(1, 255)}")
            try:
                send_all(sender, target)
                sender.flush()
            except NativeError as error:
                assert error.errno_value in BROKEN, error
                relay.cut_after = None
                sender.resume()
        relay.cut_after = None  # a round may have been shorter than what was to be cut
        send_all(sender, target)
        sender.flush()
        send_image(sender, tmp_path / "image", [(target.address, PAGES, LAZY)])
        ends.store.seal()
        compare(ends, target)
    relay.close()


def test_another_sender_goes_on_where_the_first_one_died(ends: Ends, tmp_path: Path) -> None:
    with Target(PAGES) as target:
        with ends.connect() as first:
            send_all(first, target)
            first.flush()
        target.tell("write 9 9")
        with ends.connect(lanes=3) as second:
            send_all(second, target)
            second.flush()
            assert second.progress().pages_sent == 1
            send_image(second, tmp_path / "image", [(target.address, PAGES, LAZY)])
            ends.store.seal()
        compare(ends, target)
        assert Index.read(ends.store.directory / f"{IMAGE_PID}.index").hot


def test_a_silent_peer_ends_the_wait(ends: Ends, relay: Relay) -> None:
    with Target(PAGES) as target, ends.connect(port=relay.port, timeout_ms=300) as sender:
        relay.silent.set()
        assert failure(sender, target) == errno.ETIMEDOUT
        assert failure(sender, target) == errno.ENOTCONN
        relay.silent.clear()


def test_a_cancel_ends_what_is_under_way(ends: Ends, relay: Relay) -> None:
    with Target(PAGES) as target, ends.connect(port=relay.port, timeout_ms=60000) as sender:
        relay.silent.set()
        timer = threading.Timer(0.3, sender.cancel)
        timer.start()
        assert failure(sender, target) == errno.ECANCELED
        timer.join()
        relay.silent.clear()
        with pytest.raises(NativeError) as caught:
            sender.resume()
        assert caught.value.errno_value == errno.ECANCELED


def test_a_cancel_ends_a_connecting_sender(ends: Ends, relay: Relay) -> None:
    relay.silent.set()
    sender = Sender.open(
        LOOPBACK, relay.port, ends.source, ends.token, peer_name="target", timeout_ms=60000
    )
    timer = threading.Timer(0.3, sender.cancel)
    timer.start()
    with pytest.raises(NativeError) as caught:
        sender.resume()
    assert caught.value.errno_value == errno.ECANCELED
    timer.join()
    relay.silent.clear()
    sender.close()


def test_nobody_listens(ends: Ends) -> None:
    with socket.create_server((LOOPBACK, 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(NativeError, match="cannot connect") as caught:
        ends.connect(port=port)
    assert caught.value.errno_value == errno.ECONNREFUSED


def test_a_wrong_token_is_refused(ends: Ends) -> None:
    with pytest.raises(NativeError, match="not expected") as caught:
        ends.connect(token=make_token())
    assert caught.value.errno_value == errno.EREMOTEIO


def test_a_forgotten_token_is_refused_and_its_stream_ends(ends: Ends) -> None:
    with Target(PAGES) as target, ends.connect() as sender:
        send_all(sender, target)
        sender.flush()
        ends.receiver.forget(ends.token)
        assert failure(sender, target) in BROKEN
        with pytest.raises(NativeError, match="not expected"):
            sender.resume()
        assert ends.store.counts().pages == PAGES


def test_another_nodes_certificate_is_refused(ends: Ends, authority: Authority) -> None:
    with pytest.raises(NativeError, match="expected from somebody else"):
        ends.connect(tls=authority.issue("third"))


def test_another_authoritys_certificate_is_refused(ends: Ends, tmp_path: Path) -> None:
    other = Authority(tmp_path, "other").issue("source")
    with pytest.raises(NativeError) as caught:
        ends.connect(tls=other)
    assert caught.value.errno_value == errno.EKEYREJECTED
    # One that trusts the right authority, and is not trusted itself.
    mixed = type(other)(other.certificate, other.key, ends.source.authority)
    with pytest.raises(NativeError) as caught:
        ends.connect(tls=mixed)
    assert caught.value.errno_value in BROKEN
    assert "certificate" in ends.receiver.trouble()


def test_an_expired_certificate_is_refused(ends: Ends, authority: Authority) -> None:
    with pytest.raises(NativeError) as caught:
        ends.connect(tls=authority.issue("source", expired=True))
    assert caught.value.errno_value in BROKEN
    assert "expired" in ends.receiver.trouble()


def test_a_peer_with_another_name_is_refused(ends: Ends) -> None:
    with pytest.raises(NativeError, match="mismatch") as caught:
        ends.connect(peer_name="somebody")
    assert caught.value.errno_value == errno.EKEYREJECTED


def test_files_that_are_no_certificates_are_refused(ends: Ends, tmp_path: Path) -> None:
    (tmp_path / "none.pem").write_text("none")
    wrong = type(ends.source)(tmp_path / "none.pem", ends.source.key, ends.source.authority)
    with pytest.raises(NativeError, match=r"cannot use the certificate .*none\.pem") as caught:
        ends.connect(tls=wrong)
    assert caught.value.errno_value == errno.EKEYREJECTED


def test_more_than_was_agreed_is_refused(authority: Authority, tmp_path: Path) -> None:
    receiver = Receiver()
    port = receiver.start(LOOPBACK, 0, authority.issue("target"))
    token = make_token()
    store = receiver.expect(token, tmp_path / "small", 1 << 20)
    try:
        with (
            Target(PAGES) as target,
            Sender.connect(
                LOOPBACK, port, authority.issue("source"), token, peer_name="target"
            ) as sender,
        ):
            with pytest.raises(NativeError, match="more than the 1048576 bytes") as caught:
                send_all(sender, target)
                sender.flush()
            assert caught.value.errno_value == errno.EREMOTEIO
            assert store.counts().pages * 4096 <= 1 << 20
    finally:
        receiver.close()
        store.remove()


def test_a_name_that_is_no_plain_name_is_not_sent(ends: Ends, tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.mkdir()
    (image / "with space.img").write_bytes(b"x")
    with ends.connect() as sender:
        with pytest.raises(NativeError, match="no plain name"):
            sender.send_directory(image)
        (image / "with space.img").rename(image / "plain.img")
        (image / "link.img").symlink_to("/etc/passwd")
        assert sender.send_directory(image) == 1
        sender.flush()
    assert sorted(path.name for path in ends.store.images.iterdir()) == ["plain.img"]


def test_bytes_that_are_no_tls_do_no_harm(ends: Ends) -> None:
    for noise in (b"", b"GET / HTTP/1.0\r\n\r\n", bytes(100), b"\x16\x03\x01" + b"\xff" * 2000):
        with socket.create_connection((LOOPBACK, ends.port)) as connection:
            connection.sendall(noise)
    with Target(16) as target, ends.connect() as sender:
        send_all(sender, target)
        assert sender.flush().pages == 16


def test_runs_that_are_no_pages_are_refused(ends: Ends) -> None:
    with Target(16) as target, ends.connect() as sender:
        for vaddr, pages in ((target.address + 1, 1), ((1 << 56) - 4096, 2)):
            with pytest.raises(NativeError) as caught:
                sender.send_runs(target.pid, IMAGE_PID, pack_runs([(vaddr, pages)]))
            assert caught.value.errno_value == errno.EINVAL
        send_all(sender, target)
        assert sender.flush().pages == 16


def test_a_directory_that_exists_is_no_store(ends: Ends) -> None:
    with pytest.raises(NativeError) as caught:
        ends.receiver.expect(make_token(), ends.store.directory, QUOTA_BYTES)
    assert caught.value.errno_value == errno.EEXIST
    assert ends.store.directory.exists()
