# SPDX-License-Identifier: Apache-2.0
"""A successor is a child that is watched, may be ended, and outlives whoever started it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import uvloop

from shim.server.successor import Successor, own_command

WAITS = [sys.executable, "-SEsc", "import sys; sys.stdin.read()"]
LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]

STARTER = """
import asyncio, sys
from shim.server.successor import Successor

async def start():
    child = Successor(sys.argv[1:])
    watch = asyncio.create_task(child.ended())
    await asyncio.sleep(0)
    watch.cancel()
    print(child.pid, flush=True)

asyncio.run(start())
"""

pytestmark = pytest.mark.parametrize("new_loop", LOOPS, ids=["asyncio", "uvloop"])


def leaves(status: int) -> list[str]:
    """A command that ends with a status."""
    return [sys.executable, "-SEsc", f"raise SystemExit({status})"]


@pytest.mark.parametrize("status", [0, 1, 3])
def test_its_end_is_noticed_with_its_status(
    new_loop: Callable[[], asyncio.AbstractEventLoop], status: int
) -> None:
    async def watch() -> int:
        return await asyncio.wait_for(Successor(leaves(status)).ended(), 30)

    with asyncio.Runner(loop_factory=new_loop) as runner:
        assert runner.run(watch()) == status


def test_it_can_be_ended_and_that_can_be_asked_again(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def watch() -> None:
        child = Successor([sys.executable, "-SEsc", "import signal; signal.pause()"])
        ended = asyncio.create_task(child.ended())
        await asyncio.sleep(0)
        child.kill()
        assert await asyncio.wait_for(ended, 30) == -signal.SIGKILL
        assert await child.ended() == -signal.SIGKILL
        child.kill()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(watch())


def test_to_watch_no_more_leaves_it_alone_and_no_descriptor_open(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    async def watch() -> None:
        child = Successor([sys.executable, "-SEsc", "import signal; signal.pause()"])
        try:
            before = descriptors()
            ended = asyncio.create_task(child.ended())
            await asyncio.sleep(0.0)
            assert descriptors() == before + 1
            ended.cancel()
            await asyncio.gather(ended, return_exceptions=True)
            assert descriptors() == before
            os.kill(child.pid, 0)
        finally:
            child.kill()
            await child.ended()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(watch())


def test_it_outlives_the_process_that_started_it(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """As it must when the predecessor ends after a good handover."""
    script = STARTER
    if new_loop is uvloop.new_event_loop:
        script = script.replace("asyncio.run", "uvloop.run").replace(
            "import a", "import uvloop, a", 1
        )
    starter = subprocess.Popen(
        [sys.executable, "-c", script, *WAITS], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert starter.stdin is not None and starter.stdout is not None
    pid = int(starter.stdout.readline())
    assert starter.wait(30) == 0
    pidfd = os.pidfd_open(pid)
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        assert state != "Z"
    finally:
        os.close(pidfd)
        starter.stdin.close()  # it reads the same pipe and ends by that
        starter.stdout.close()


def test_the_command_is_this_programs_with_the_word_to_take_over(
    new_loop: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = ["/usr/bin/podferry", "--config", "x", "serve"]
    for given in (served, [*served, "--takeover"]):
        monkeypatch.setattr(sys, "orig_argv", ["python", *given])
        assert own_command() == [
            sys.executable, "/usr/bin/podferry", "--config", "x", "serve", "--takeover",
        ]  # fmt: skip
