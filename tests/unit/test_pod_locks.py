# SPDX-License-Identifier: Apache-2.0
"""A pod's lock is held by one process of the service at a time, and by one task in it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

from shim.checkpoint.locks import PodLocks

# Takes the lock, says so, and keeps it until it is killed.
HOLDER = """
import asyncio, sys
from pathlib import Path
from shim.checkpoint.locks import PodLocks
async def main():
    async with PodLocks(Path(sys.argv[1])).held("one"):
        print("held", flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""


async def _taken(locks: PodLocks, name: str) -> None:
    async with locks.held(name):
        pass


async def test_tasks_take_turns(tmp_path: Path) -> None:
    locks = PodLocks(tmp_path / "deep" / "lock")
    async with locks.held("one"):
        waiting = asyncio.create_task(_taken(locks, "one"))
        await _taken(locks, "two")
        assert not waiting.done()
    await waiting
    locks.close()


async def test_two_services_exclude_each_other(tmp_path: Path) -> None:
    first, second = PodLocks(tmp_path / "lock"), PodLocks(tmp_path / "lock")
    async with first.held("one"):
        waiting = asyncio.create_task(_taken(second, "one"))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        await asyncio.wait_for(_taken(second, "two"), 10)
    await asyncio.wait_for(waiting, 10)
    first.close()
    second.close()


def _hold_elsewhere(path: Path) -> subprocess.Popen[bytes]:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    holder.stdout.close()
    return holder


async def test_a_killed_service_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    holder = _hold_elsewhere(path)
    locks = PodLocks(path)
    waiting = asyncio.create_task(_taken(locks, "one"))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    holder.kill()
    holder.wait()
    await asyncio.wait_for(waiting, 10)
    locks.close()
