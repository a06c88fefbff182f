# SPDX-License-Identifier: Apache-2.0
"""The container monitor's protocol: bytes as documented, the same numbers in C and in Python."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import struct
from pathlib import Path

import pytest

from shim.errors import InvalidMessage, NotFound, Unavailable
from shim.runtime import claims
from shim.runtime import monitor_wire as wire
from shim.runtime.monitor import Arming, CriuFailed, Monitor, MonitorRefused, Pager
from shim.runtime.monitor_wire import Flag, Item, State, Status, Verb

HEADER_H = Path(__file__).parents[2] / "native" / "runtime" / "wire.h"
# docs/monitor.md: ARM, tag 7, flags 8, with TEXT "abc" and TRIGGERS 0 and 2.
GOLDEN = bytes.fromhex(
    "50464d31 0100 0500 07000000 00000000 08000000 1c000000"
    "0100 0000 03000000 61626300"
    "0700 0000 08000000 00000000 02000000"
)
STATE = struct.pack("<4I2Q6IQ", 3, 10, 0, 12, 0, 99, 2, 1, 0, 1, 0, 0, 5)


def test_a_packet_is_the_documented_bytes() -> None:
    made = wire.compose(
        Verb.ARM,
        [(Item.TEXT, b"abc"), (Item.TRIGGERS, wire.indexes([0, 2]))],
        tag=7,
        flags=Flag.REMOVE_IMAGES,
    )
    assert made == GOLDEN
    packet = wire.parse(made)
    assert (packet.verb, packet.tag, packet.flags) == (Verb.ARM, 7, 8)
    assert packet.text == "abc"
    assert packet.first(Item.IMAGES) is None


@pytest.mark.parametrize("cut", range(len(GOLDEN)))
def test_a_cut_packet_is_refused(cut: int) -> None:
    with pytest.raises(InvalidMessage):
        wire.parse(GOLDEN[:cut])


def test_an_item_longer_than_its_packet_is_refused() -> None:
    with pytest.raises(InvalidMessage):
        wire.parse(GOLDEN[:28] + b"\xff\xff\xff\xff" + GOLDEN[32:])


@pytest.mark.parametrize(
    ("python", "prefix"),
    [(Verb, "PR_"), (Flag, "PR_FLAG_"), (Status, "PR_"), (State, "PR_"), (Item, "PR_ITEM_")],
)
def test_c_has_the_same_numbers(python: type[Verb], prefix: str) -> None:
    c = dict(re.findall(r"\b(PR_\w+) = (\d+)", HEADER_H.read_text()))
    for one in python:
        if one.value or prefix != "PR_FLAG_":
            assert c[f"{prefix}{one.name}"] == str(one.value)


def test_actions_are_laid_out_as_documented() -> None:
    assert wire.map_action(1, b"key", b"v") == (
        Item.MAP,
        struct.pack("<4I", 1, 3, 1, 0) + b"keyv",
    )
    assert wire.map_action(0, b"k", None)[1] == struct.pack("<4I", 0, 1, 0, 0) + b"k"
    assert wire.netlink_action(2, b"m")[1] == b"\x02\0\0\0m"
    assert wire.write_action("/a", b"x")[1] == b"\x02\0\0\0/ax"


class Peer:
    """A monitor that gives prepared answers.

    Args:
        directory: where its socket is.
    """

    def __init__(self, directory: Path) -> None:
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(str(directory / "control"))
        self.listener.listen()
        self.asked: list[wire.Packet] = []
        self.descriptors = 0

    def answer(self, status: Status, text: bytes = b"") -> None:
        """Serves one question of one connection; runs in a thread."""
        one, _ = self.listener.accept()
        with one:
            data, fds, _, _ = socket.recv_fds(one, wire.PACKET_BYTES, 32)
            self.descriptors = len(fds)
            for fd in fds:
                socket.close(fd)
            packet = wire.parse(data)
            self.asked.append(packet)
            items = [(Item.STATE, STATE), (Item.TEXT, text)]
            one.send(wire.compose(Verb(packet.verb), items, tag=packet.tag, status=status))


@pytest.fixture
def peer(tmp_path: Path) -> Peer:
    return Peer(tmp_path)


async def ask(peer: Peer, directory: Path, status: Status, text: bytes = b"") -> wire.Snapshot:
    served = asyncio.create_task(asyncio.to_thread(peer.answer, status, text))
    try:
        async with Monitor(directory) as monitor:
            return await monitor.wake()
    finally:
        await served
        peer.listener.close()


async def test_an_answer_is_a_snapshot(peer: Peer, tmp_path: Path) -> None:
    state = await ask(peer, tmp_path, Status.OK)
    assert (state.state, state.monitor_pid, state.placeholder_pid) == (State.ASLEEP, 10, 12)
    assert (state.since_ns, state.sleeps, state.wakes, state.armed) == (99, 2, 1, True)


async def test_refusals_and_failures_are_told_apart(peer: Peer, tmp_path: Path) -> None:
    with pytest.raises(MonitorRefused, match="not armed") as caught:
        await ask(peer, tmp_path, Status.WRONG_STATE, b"not armed")
    assert caught.value.status is Status.WRONG_STATE


async def test_crius_failure_is_its_own_error(peer: Peer, tmp_path: Path) -> None:
    with pytest.raises(CriuFailed, match="no such image"):
        await ask(peer, tmp_path, Status.CRIU_FAILED, b"no such image")


async def test_each_descriptor_goes_once(peer: Peer, tmp_path: Path) -> None:
    served = asyncio.create_task(asyncio.to_thread(peer.answer, Status.OK))
    one, two = os.pipe()
    try:
        arming = Arming(
            request=b"r",
            criu_descriptors=(one,),
            triggers=(two, one),
            pager=Pager(("/bin/pager", "--x"), (two,)),
            maps=((one, b"k", b"v"),),
        )
        async with Monitor(tmp_path) as monitor:
            await monitor.arm(arming)
    finally:
        os.close(one)
        os.close(two)
    await served
    peer.listener.close()
    assert peer.descriptors == 2
    (packet,) = peer.asked
    assert packet.first(Item.TRIGGERS) == wire.indexes([1, 0])
    assert packet.first(Item.PAGER_ARGV) == b"/bin/pager\0--x\0"


async def test_the_verbs_of_a_move_carry_their_flags_and_status(peer: Peer, tmp_path: Path) -> None:
    async def one(verb: str, *words: object) -> wire.Packet:
        served = asyncio.create_task(asyncio.to_thread(peer.answer, Status.OK))
        async with Monitor(tmp_path) as monitor:
            await getattr(monitor, verb)(*words)
        await served
        return peer.asked[-1]

    held = await one("hold_checkpoint", b"r")
    assert (held.verb, held.flags) == (Verb.CHECKPOINT, Flag.HOLD)
    staged = await one("stage")
    assert (staged.verb, staged.flags) == (Verb.WAKE, Flag.STAGE)
    assert (await one("depart", 7)).first(Item.STATUS) == b"\x07\0\0\0"
    assert (await one("exit", 255)).first(Item.STATUS) == b"\xff\0\0\0"
    assert (await one("exit")).first(Item.STATUS) is None
    for verb in ("resume", "claim", "unclaim", "prepare", "go", "drop", "kill"):
        assert (await one(verb)).verb == Verb[verb.upper()]
    peer.listener.close()


async def test_a_kill_that_is_the_runtimes_is_told(peer: Peer, tmp_path: Path) -> None:
    served = asyncio.create_task(asyncio.to_thread(peer.answer, Status.WRONG_STATE))
    async with Monitor(tmp_path) as monitor:
        assert await monitor.kill() is False
    await served
    peer.listener.close()


def test_a_claim_is_announced_until_it_is_taken_up(tmp_path: Path) -> None:
    assert claims.announced(root=tmp_path) == []
    claims.announce("c1", root=tmp_path)
    assert claims.announced(root=tmp_path) == ["c1"]
    assert claims.withdraw("c1", root=tmp_path)
    assert not claims.withdraw("c1", root=tmp_path)


def test_c_looks_for_announcements_in_the_same_place() -> None:
    settings_h = HEADER_H.with_name("settings.h").read_text()
    assert f'#define PR_CLAIM_ROOT    "{claims.ROOT}"' in settings_h


async def test_no_monitor_and_a_dead_one_are_told_apart(peer: Peer, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        Monitor(tmp_path / "nobody").connect()
    peer.listener.close()
    with pytest.raises(Unavailable):
        Monitor(tmp_path).connect()
