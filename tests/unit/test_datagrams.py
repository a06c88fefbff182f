# SPDX-License-Identifier: Apache-2.0
"""Unread datagrams, counted from the kernel's table, and the wait for them to be read."""

from __future__ import annotations

import asyncio
from pathlib import Path

from shim.checkpoint import datagrams

TABLE = """\
   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
  100: 00000000:1B5A 00000000:0000 07 00000000:00000300 00:00000000 00000000     0        0 7 2 0 0
  101: 00000000:1B5B 00000000:0000 07 00000005:00000010 00:00000000 00000000     0        0 8 2 0 0
"""


def test_what_is_queued_for_reading_is_counted() -> None:
    assert datagrams.unread_bytes(TABLE) == 0x310


def test_a_table_without_sockets_has_nothing() -> None:
    assert datagrams.unread_bytes(TABLE.splitlines()[0]) == 0


async def test_it_waits_for_a_reader_but_not_for_ever(tmp_path: Path) -> None:
    table = tmp_path / "7" / "net" / "udp"
    table.parent.mkdir(parents=True)
    table.write_text(TABLE)
    assert await datagrams.drain(7, tmp_path) == 0x310
    waiting = asyncio.create_task(datagrams.drain(7, tmp_path))
    await asyncio.sleep(0)
    table.write_text(TABLE.splitlines()[0])
    assert await waiting == 0


async def test_a_pod_that_has_ended_has_nothing_unread(tmp_path: Path) -> None:
    assert await datagrams.drain(7, tmp_path) == 0
