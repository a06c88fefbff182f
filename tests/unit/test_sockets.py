# SPDX-License-Identifier: Apache-2.0
"""Sockets appear whole, follow the runtime's rights, and are never taken from the living."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim.errors import InvalidInput, SocketInUse
from shim.server import sockets
from shim.server.sockets import (
    LONGEST_PATH_BYTES,
    ONLY_US,
    Listener,
    Ownership,
    PublicSocket,
    ownership_of,
    probe,
)

OURS = os.getuid(), os.getgid()
LISTENING_CHILD = """
import socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
print("listening", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory with a name short enough for socket paths."""
    path = Path(tempfile.mkdtemp(prefix="pf-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def open_sockets() -> Iterator[list[socket.socket]]:
    """Sockets that are closed after the test."""
    opened: list[socket.socket] = []
    yield opened
    for one in opened:
        one.close()


def listen(path: Path, opened: list[socket.socket]) -> None:
    """Listens at a path, as gRPC would."""
    listener = socket.socket(socket.AF_UNIX)
    opened.append(listener)
    listener.bind(str(path))
    listener.listen()


def bound(
    public: Path,
    opened: list[socket.socket],
    monkeypatch: pytest.MonkeyPatch | None = None,
    pid: int = 0,
) -> PublicSocket:
    """A socket of a process, bound to its private name; of another pid if one is given."""
    if monkeypatch:
        with monkeypatch.context() as patch:
            patch.setattr(os, "getpid", lambda: pid)
            made = PublicSocket(public)
    else:
        made = PublicSocket(public)
    made.prepare()
    listen(Path(made.address.removeprefix("unix:")), opened)
    return made


def leave_stale(path: Path) -> None:
    """What a killed process leaves: a socket file that nobody listens on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))


@pytest.fixture
def other_process(directory: Path) -> Iterator[tuple[Path, int]]:
    """Another living process that listens at directory/public.sock: (path, pid)."""
    path = directory / "public.sock"
    child = subprocess.Popen(
        [sys.executable, "-SEsc", LISTENING_CHILD, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdin is not None and child.stdout is not None
    assert child.stdout.readline() == b"listening\n"
    yield path, child.pid
    child.stdin.close()
    child.wait(10)
    child.stdout.close()


# ---- probing


def test_nothing_there_is_absent(directory: Path) -> None:
    assert probe(directory / "x.sock") == (Listener.ABSENT, 0)
    assert probe(directory / "no" / "x.sock") == (Listener.ABSENT, 0)


def test_a_socket_nobody_listens_on_is_stale(directory: Path) -> None:
    leave_stale(directory / "x.sock")
    assert probe(directory / "x.sock") == (Listener.STALE, 0)


def test_a_plain_file_and_a_broken_link_are_stale(directory: Path) -> None:
    (directory / "file").write_text("")
    (directory / "link").symlink_to(directory / "nowhere")
    assert probe(directory / "file")[0] is Listener.STALE
    assert probe(directory / "link")[0] is Listener.STALE


def test_a_listener_is_alive_and_told_by_its_pid(other_process: tuple[Path, int]) -> None:
    path, pid = other_process
    assert probe(path) == (Listener.ALIVE, pid)


def test_a_listener_too_busy_to_accept_is_alive(
    directory: Path, open_sockets: list[socket.socket]
) -> None:
    path = directory / "x.sock"
    listener = socket.socket(socket.AF_UNIX)
    open_sockets.append(listener)
    listener.bind(str(path))
    listener.listen(0)
    for _ in range(100):
        client = socket.socket(socket.AF_UNIX)
        open_sockets.append(client)
        client.setblocking(False)
        try:
            client.connect(str(path))
        except BlockingIOError:
            break
    else:
        pytest.fail("the backlog never filled")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sockets, "PROBE_TIMEOUT_S", 0.01)
        assert probe(path) == (Listener.ALIVE, 0)


# ---- publishing


def test_a_published_socket_answers_at_its_public_name_with_its_rights(
    directory: Path, open_sockets: list[socket.socket]
) -> None:
    public = directory / "run" / "x.sock"
    made = bound(public, open_sockets)
    assert probe(public)[0] is Listener.ABSENT, "nothing is public before publish"
    made.publish(Ownership(*OURS, 0o660))
    assert probe(public) == (Listener.ALIVE, os.getpid())
    assert ownership_of(public) == Ownership(*OURS, 0o660)
    assert made.is_in_place()
    assert stat.S_IMODE((public.parent / "private").stat().st_mode) == 0o700


def test_publishing_sets_the_rights_before_the_name(
    directory: Path, open_sockets: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    public = directory / "x.sock"
    made = bound(public, open_sockets)
    seen: list[Ownership | None] = []
    rename = Path.rename

    def look(self: Path, target: Path) -> Path:
        assert not os.path.lexists(public)
        seen.append(ownership_of(self))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", look)
    made.publish(Ownership(*OURS, 0o600))
    assert seen == [Ownership(*OURS, 0o600)]


@pytest.mark.parametrize("what", ["stale", "file", "link"])
def test_what_is_dead_at_the_public_name_is_replaced(
    directory: Path, open_sockets: list[socket.socket], what: str
) -> None:
    public = directory / "x.sock"
    if what == "stale":
        leave_stale(public)
    elif what == "file":
        public.write_text("")
    else:
        public.symlink_to(directory / "nowhere")
    made = bound(public, open_sockets)
    with made.claim():
        made.publish(ONLY_US)
    assert probe(public) == (Listener.ALIVE, os.getpid())


def test_publishing_twice_leaves_no_third_name(
    directory: Path, open_sockets: list[socket.socket]
) -> None:
    made = bound(directory / "x.sock", open_sockets)
    made.publish(ONLY_US)
    made.publish(Ownership(*OURS, 0o660))
    assert ownership_of(directory / "x.sock") == Ownership(*OURS, 0o660)
    assert _names(directory) == {"x.sock", f"private/x.sock.{os.getpid()}"}


def test_a_name_left_by_a_crash_between_linking_and_renaming_is_in_nobodys_way(
    directory: Path, open_sockets: list[socket.socket]
) -> None:
    leave_stale(directory / "private" / f"x.sock.{os.getpid()}.next")
    made = bound(directory / "x.sock", open_sockets)
    leave_stale(directory / "private" / f"x.sock.{os.getpid()}.next")
    made.publish(ONLY_US)
    assert made.is_in_place()
    assert _names(directory) == {"x.sock", f"private/x.sock.{os.getpid()}"}


def test_preparing_removes_what_the_dead_have_left_and_nothing_else(
    directory: Path, open_sockets: list[socket.socket]
) -> None:
    private = directory / "private"
    leave_stale(private / "x.sock.11")
    leave_stale(private / "x.sock.11.next")
    leave_stale(private / "other.sock.11")
    (private / "x.sock.lock").write_text("")
    listen(private / "x.sock.12", open_sockets)
    PublicSocket(directory / "x.sock").prepare()
    assert {p.name for p in private.iterdir()} == {"x.sock.12", "x.sock.lock", "other.sock.11"}


# ---- the claim


def test_a_living_process_keeps_its_socket(
    other_process: tuple[Path, int], open_sockets: list[socket.socket]
) -> None:
    path, pid = other_process
    made = bound(path, open_sockets)
    with pytest.raises(SocketInUse) as caught, made.claim():
        pytest.fail("the claim was granted")
    said = str(caught.value)
    assert said.startswith(f"{path}: ")
    assert f"pid {pid}" in said
    assert "podferry handover" in said


def test_a_socket_is_handed_over_by_the_process_that_agreed(
    other_process: tuple[Path, int], open_sockets: list[socket.socket]
) -> None:
    path, pid = other_process
    made = bound(path, open_sockets)
    with pytest.raises(SocketInUse), made.claim(from_pid=pid + 1):
        pytest.fail("the claim was granted")
    with made.claim(from_pid=pid):
        made.publish(ONLY_US)
    assert probe(path) == (Listener.ALIVE, os.getpid())


def test_our_own_socket_can_be_claimed_again(
    directory: Path, open_sockets: list[socket.socket]
) -> None:
    made = bound(directory / "x.sock", open_sockets)
    for _ in range(2):
        with made.claim():
            made.publish(ONLY_US)
    assert made.is_in_place()


def test_a_refused_claim_leaves_the_lock_free(
    other_process: tuple[Path, int], open_sockets: list[socket.socket]
) -> None:
    path, pid = other_process
    made = bound(path, open_sockets)
    with pytest.raises(SocketInUse), made.claim():
        pass
    with made.claim(from_pid=pid):
        pass


# ---- going


def test_withdrawing_removes_both_names(directory: Path, open_sockets: list[socket.socket]) -> None:
    made = bound(directory / "x.sock", open_sockets)
    made.publish(ONLY_US)
    assert made.is_bound()
    made.withdraw()
    assert not made.is_bound()
    assert _names(directory) == set()
    made.withdraw()


def test_withdrawing_leaves_a_successors_socket(
    directory: Path, open_sockets: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    public = directory / "x.sock"
    old = bound(public, open_sockets, monkeypatch, 4001)
    old.publish(ONLY_US)
    new = bound(public, open_sockets, monkeypatch, 4002)
    new.publish(ONLY_US)
    assert not old.is_in_place()
    old.withdraw()
    assert new.is_in_place()
    assert probe(public)[0] is Listener.ALIVE
    assert _names(directory) == {"x.sock", "private/x.sock.4002"}


def test_withdrawing_while_a_successor_publishes_leaves_the_successors_socket(
    directory: Path, open_sockets: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The successor renames between the old process's look and its removal."""
    public = directory / "x.sock"
    old = bound(public, open_sockets, monkeypatch, 4001)
    old.publish(ONLY_US)
    new = bound(public, open_sockets, monkeypatch, 4002)
    lock = fcntl.flock

    def publish_first(*arguments: int) -> None:
        monkeypatch.setattr(fcntl, "flock", lock)
        new.publish(ONLY_US)  # it had the lock before us
        lock(*arguments)

    monkeypatch.setattr(fcntl, "flock", publish_first)
    old.withdraw()
    assert new.is_in_place()
    assert probe(public)[0] is Listener.ALIVE


def test_a_predecessor_can_put_its_socket_back(
    directory: Path, open_sockets: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    public = directory / "x.sock"
    old = bound(public, open_sockets, monkeypatch, 4001)
    old.publish(ONLY_US)
    new = bound(public, open_sockets, monkeypatch, 4002)
    new.publish(ONLY_US)
    open_sockets.pop().close()  # the successor dies
    assert probe(public) == (Listener.STALE, 0)
    with old.claim():
        old.publish(ONLY_US)
    assert old.is_in_place()
    assert probe(public)[0] is Listener.ALIVE


def test_a_removed_public_name_is_noticed(
    directory: Path, open_sockets: list[socket.socket]
) -> None:
    made = bound(directory / "x.sock", open_sockets)
    made.publish(ONLY_US)
    (directory / "x.sock").unlink()
    assert not made.is_in_place()
    made.publish(ONLY_US)
    assert made.is_in_place()


# ---- rights


ownerships = st.builds(Ownership, st.integers(0, 3), st.integers(0, 3), st.integers(0, 0o777))


@given(ownerships, ownerships)
def test_following_never_opens_the_socket_to_anybody_the_old_or_the_new_rights_keep_out(
    old: Ownership, new: Ownership
) -> None:
    """On a file system of the test's own, since only root may give files away."""
    now = [old]
    states: list[Ownership] = []

    class File:
        def stat(self) -> os.stat_result:
            return os.stat_result((now[0].mode | stat.S_IFSOCK, 1, 1, 1, now[0].uid, now[0].gid,
                                   0, 0, 0, 0))  # fmt: skip

        def chmod(self, mode: int) -> None:
            now[0] = Ownership(now[0].uid, now[0].gid, mode)
            states.append(now[0])

    def chown(path: object, uid: int, gid: int) -> None:
        now[0] = Ownership(uid, gid, now[0].mode)
        states.append(now[0])

    made = PublicSocket(Path("/run/x.sock"))
    made._private = File()  # type: ignore[assignment]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "chown", chown)
        made.follow(new)
    assert now[0] == new
    for state in states:
        allowed = {who for who in _people() if _may(who, old) or _may(who, new)}
        assert {who for who in _people() if _may(who, state)} <= allowed


def _people() -> list[tuple[int, int]]:
    return [(uid, gid) for uid in range(4) for gid in range(4)]


def _may(who: tuple[int, int], rights: Ownership) -> bool:
    # Connecting needs the right to write (unix(7)); the first class that fits decides.
    if who[0] == rights.uid:
        return bool(rights.mode & 0o200)
    return bool(rights.mode & (0o020 if who[1] == rights.gid else 0o002))


@pytest.mark.parametrize(("old", "new"), [(0o600, 0o660), (0o666, 0o600), (0o660, 0o660)])
def test_following_changes_the_public_name_too(
    directory: Path, open_sockets: list[socket.socket], old: int, new: int
) -> None:
    made = bound(directory / "x.sock", open_sockets)
    made.publish(Ownership(*OURS, old))
    made.follow(Ownership(*OURS, new))
    assert ownership_of(directory / "x.sock") == Ownership(*OURS, new)


def test_following_without_a_socket_does_nothing(directory: Path) -> None:
    PublicSocket(directory / "x.sock").follow(ONLY_US)


def test_the_rights_of_nothing_are_none(directory: Path) -> None:
    assert ownership_of(directory / "x.sock") is None


# ---- paths


def test_a_path_that_cannot_be_bound_is_refused_with_how_much_it_is_too_long() -> None:
    extra = len(f"/private.{os.getpid()}.next")
    longest = LONGEST_PATH_BYTES - extra
    fits = Path("/" + "d" * (longest - 4) + "/xy")
    assert len(str(fits)) == longest
    assert PublicSocket(fits).address.startswith("unix:/d")
    with pytest.raises(InvalidInput, match="too long for a unix socket by 3 bytes") as caught:
        PublicSocket(Path(f"{fits}abc"))
    assert str(caught.value).startswith(f"{fits}abc: ")
    assert "shorter" in caught.value.remedy


def test_length_is_counted_in_bytes() -> None:
    with pytest.raises(InvalidInput, match="too long"):
        PublicSocket(Path("/run/" + "ü" * 45 + "/x"))


def _names(directory: Path) -> set[str]:
    names = {str(p.relative_to(directory)) for p in directory.rglob("*") if not p.is_dir()}
    return {name for name in names if not name.endswith(".lock")}
