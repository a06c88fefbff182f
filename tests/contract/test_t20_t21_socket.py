# SPDX-License-Identifier: Apache-2.0
"""T20-T21: who may open the socket, at every instant, and whose socket it is."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import subprocess
from pathlib import Path

import grpc
import pytest

from cri_proto import control_pb2 as pb
from shim.core.methods import RUNTIME
from tests.contract.client import connect, unary, until
from tests.contract.fake_runtime import FakeRuntime
from tests.contract.shim_process import ShimProcess, accepts
from tests.contract.watcher import Sight, watched
from tests.fix_contract import ShimFactory

root = pytest.mark.skipif(os.getuid() != 0, reason="giving a socket to a group needs root")
VERSION = RUNTIME + "Version"


def _rights(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)


def _is_within(sight: Sight, granted: list[tuple[int, int]]) -> bool:
    """Whether a sight lets in nobody that one of the granted (gid, mode) would not."""
    assert sight.mode is not None
    group, others = sight.mode >> 3 & 7, sight.mode & 7
    group_ok = group == 0 or any(
        gid == sight.gid and group & ~(mode >> 3) == 0 for gid, mode in granted
    )
    return group_ok and any(others & ~mode == 0 for _, mode in granted)


@root
async def test_t20_rights_equal_the_runtimes_from_the_first_instant(
    home: Path, shims: ShimFactory
) -> None:
    """T20: a stat loop sees the runtime's owner, group and mode and nothing else, ever."""
    fake = FakeRuntime(home / "runtime.sock", mode=0o660, gid=1000)
    await fake.start()
    try:
        shim = shims.make(fake.path)
        with watched(shim.socket) as sights:
            await shim.start()
            async with connect(shim.socket) as channel:
                await unary(channel, VERSION)
                for _ in range(2):
                    await shim.handover()
                    await unary(channel, VERSION)
        assert len(sights.present) >= 3, "not all three were seen"
        assert {(s.uid, s.gid, s.mode) for s in sights.present} == {(0, 1000, 0o660)}
        assert sights.seen[0].inode is None
        assert None not in [sight.inode for sight in sights.seen[1:]], "the path was away"
    finally:
        await fake.stop()


@root
@pytest.mark.parametrize(
    ("before", "after"),
    [((1000, 0o660), (1001, 0o640)), ((0, 0o600), (1000, 0o666)), ((1000, 0o666), (0, 0o600))],
)
async def test_t20_rights_follow_a_restarted_runtime(
    home: Path, shims: ShimFactory, before: tuple[int, int], after: tuple[int, int]
) -> None:
    """T20: after its restart with other rights ours are the same, and were never wider."""
    gid, mode = before
    fake = FakeRuntime(home / "runtime.sock", mode=mode, gid=gid)
    await fake.start()
    try:
        shim = shims.make(fake.path)
        with watched(shim.socket) as sights:
            await shim.start()
            await fake.stop()
            fake.gid, fake.mode = after
            await fake.start()
            await until(
                lambda: _rights(shim.socket) == (0, *after), what="rights follow the runtime's"
            )
        assert sights.looks > 100
        for sight in sights.present:
            assert _is_within(sight, [before, after]), f"{sight} is wider than both"
    finally:
        await fake.stop()


async def test_t20_rights_that_come_late(home: Path, shims: ShimFactory) -> None:
    """T20: containerd listens first and sets its mode then; a look in between must not stick."""
    fake = FakeRuntime(home / "runtime.sock", mode=0o755)
    await fake.start()
    try:
        shim = await shims.make(fake.path).start()
        async with connect(shim.socket) as channel:
            await unary(channel, VERSION)
        fake.path.chmod(0o600)
        await until(lambda: _rights(shim.socket)[2] == 0o600, what="the mode follows")
    finally:
        await fake.stop()


async def test_t20_only_the_owner_while_there_is_no_runtime(home: Path, shims: ShimFactory) -> None:
    """T20: with nobody to copy from, nobody else is let in; the control socket never is."""
    shim = await shims.make(home / "runtime.sock").start()
    assert _rights(shim.socket)[2] == 0o600
    assert _rights(shim.control)[2] == 0o600
    assert stat.S_IMODE((shim.home / "private").stat().st_mode) == 0o700
    fake = FakeRuntime(home / "runtime.sock", mode=0o660)
    await fake.start()
    try:
        await until(lambda: _rights(shim.socket)[2] == 0o660, what="the mode follows")
        assert _rights(shim.control)[2] == 0o600
    finally:
        await fake.stop()


def _leave_stale(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(path))
        dead.listen()


@pytest.mark.parametrize("kind", ["socket", "file", "link"])
async def test_t21_stale_path_is_replaced(fake: FakeRuntime, shims: ShimFactory, kind: str) -> None:
    """T21: what a dead process left at the path, of whatever kind, gives way."""
    shim = shims.make(fake.path)
    for path in (shim.socket, shim.control):
        path.parent.mkdir(exist_ok=True)
        if kind == "socket":
            _leave_stale(path)
        elif kind == "file":
            path.write_text("left over")
        else:
            path.symlink_to("/nowhere/at/all")
    await shim.start()
    async with connect(shim.socket) as channel:
        assert (await unary(channel, VERSION)).code is grpc.StatusCode.OK


@pytest.mark.parametrize("which", ["cri", "control"])
async def test_t21_living_socket_is_not_stolen(
    fake: FakeRuntime, shims: ShimFactory, which: str
) -> None:
    """T21: a foreign listener keeps its path; the service ends with status 1 and says why."""
    shim = shims.make(fake.path)
    path = shim.socket if which == "cri" else shim.control
    path.parent.mkdir(exist_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as foreign:
        foreign.bind(str(path))
        foreign.listen()
        inode = path.lstat().st_ino
        popen = shim.spawn()
        await until(lambda: popen.poll() is not None, what="the service gives up")
        assert popen.returncode == 1
        assert path.lstat().st_ino == inode
        assert accepts(path)
    last = shim.log.splitlines()[-1]
    assert last.startswith(f"podferry: {path}: a living process (pid {os.getpid()})"), last
    path.unlink()


async def test_t21_second_podferry_gives_way(fake: FakeRuntime, shims: ShimFactory) -> None:
    """T21: the same settings started again: the first serves on as if nothing were."""
    shim = await shims.make(fake.path).start()
    inodes = [path.lstat().st_ino for path in (shim.socket, shim.control)]
    second = _second_of(shim)
    assert await asyncio.to_thread(second.wait, 20) == 1
    assert inodes == [path.lstat().st_ino for path in (shim.socket, shim.control)]
    async with connect(shim.socket) as channel:
        assert (await unary(channel, VERSION)).code is grpc.StatusCode.OK


def _second_of(shim: ShimProcess) -> subprocess.Popen[bytes]:
    first = shim.popen
    second = shim.spawn()
    shim.popen = first
    return second


@pytest.mark.parametrize("attempt", range(3))
async def test_t21_started_at_once_exactly_one_wins(
    fake: FakeRuntime, shims: ShimFactory, attempt: int
) -> None:
    """T21: four processes at the same moment; one serves, the others end with status 1."""
    shim = shims.make(fake.path)
    if attempt:
        _leave_stale(shim.socket)
    racers = [shim.spawn() for _ in range(4)]
    await until(
        lambda: len([r for r in racers if r.poll() is not None]) == 3 and accepts(shim.socket),
        what="three give up and one serves",
        within_s=20,
    )
    winner = next(racer for racer in racers if racer.poll() is None)
    shim.popen = winner
    assert [racer.returncode for racer in racers if racer is not winner] == [1, 1, 1]
    await until(lambda: accepts(shim.control), what="the control socket answers")
    async with shim.stub() as control:
        status = await control.Status(pb.StatusRequest())
    assert (status.pid, status.phase) == (winner.pid, "serving")
    async with connect(shim.socket) as channel:
        assert (await unary(channel, VERSION)).code is grpc.StatusCode.OK


async def test_t21_removed_path_comes_back(fake: FakeRuntime, shims: ShimFactory) -> None:
    """T21: somebody removes the path of a living service: it is put back with the same rights."""
    shim = await shims.make(fake.path).start()
    found = shim.socket.lstat()
    shim.socket.unlink()
    await until(shim.socket.exists, what="the path comes back", within_s=5)
    again = shim.socket.lstat()
    assert (again.st_ino, again.st_mode, again.st_gid) == (
        found.st_ino, found.st_mode, found.st_gid,
    )  # fmt: skip
    async with connect(shim.socket) as channel:
        assert (await unary(channel, VERSION)).code is grpc.StatusCode.OK
