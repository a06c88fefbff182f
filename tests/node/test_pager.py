# SPDX-License-Identifier: Apache-2.0
"""podferry-pager with the real CRIU: processes that are restored lazily see the right bytes.

The workload (native/pager/tests/workload.c) checks every byte it owns, from several threads in
scattered order, while it unmaps, removes, moves, protects and inherits memory.
"""

from __future__ import annotations

import pytest

from tests.node import pager_parts
from tests.node.pager_parts import ALL_IN, RESTORED, Sleeper
from tests.testbed.node import Node

PAGE_BYTES = 4096


@pytest.fixture(scope="module", autouse=True)
def binaries() -> None:
    """Built before a node waits for them."""
    pager_parts.build()


def test_all_memory_is_right_and_the_pager_ends(node: Node) -> None:
    with Sleeper(node, 64) as sleeper:
        sleeper.dump()
        sleeper.go()
        pager = sleeper.start_pager()
        sleeper.restore()
        assert sleeper.finish(pager) == 0, pager.log
        assert sleeper.results() == ["ok"]
        assert ALL_IN in sleeper.monitor.told
        assert not sleeper.monitor.uffds
        figures = pager.figures()
        assert figures["faults"] > 0 and figures["events"] > 0


def test_pages_nobody_asks_for_come_too(node: Node) -> None:
    with Sleeper(node, 64) as sleeper:
        sleeper.dump()
        pages = node.path(f"{sleeper.images}/pages-1.img").stat().st_size // PAGE_BYTES
        pager = sleeper.start_pager()
        sleeper.restore()
        assert sleeper.finish(pager) == 0, pager.log
        # CRIU has restored stacks and file mappings itself.
        assert pages * 0.98 < pager.figures()["pages"] <= pages
        sleeper.go()
        assert sleeper.results() == ["ok"]


def test_it_sleeps_and_wakes_again_and_again(node: Node) -> None:
    with Sleeper(node, 16) as sleeper:
        for _ in range(4):
            sleeper.dump()
            pager = sleeper.start_pager()
            sleeper.restore()
            assert sleeper.finish(pager) == 0, pager.log
            sleeper.forget_round()
        sleeper.go()
        assert sleeper.results() == ["ok"]


def test_several_processes(node: Node) -> None:
    with Sleeper(node, 16, processes=3) as sleeper:
        sleeper.dump()
        sleeper.go()
        pager = sleeper.start_pager()
        sleeper.restore()
        assert sleeper.finish(pager) == 0, pager.log
        assert sleeper.results() == ["ok"] * 3


def kill_and_replace(sleeper: Sleeper, most: int) -> int:
    """Wakes the workload and kills its pager up to ``most`` times; gives how often it hit."""
    sleeper.dump()
    pager = sleeper.start_pager()
    restoring = sleeper.start_restore()
    sleeper.monitor.take_until(RESTORED)
    killed = 0
    # The workload has not been told to go on: it does not fork, so nothing can be lost.
    while killed < most and sleeper.kill(pager):
        killed += 1
        assert ALL_IN not in sleeper.monitor.told
        pager = sleeper.start_pager(resume=True)
    assert restoring.wait(60) == 0, sleeper.criu_log("restore")
    assert sleeper.finish(pager) == 0, pager.log
    assert ALL_IN in sleeper.monitor.told
    return killed


def test_a_killed_pager_is_replaced(node: Node) -> None:
    killed = 0
    with Sleeper(node, 512) as sleeper:
        # On a busy machine a pager may be done before it is killed; four must be hit.
        for _ in range(8):
            killed += kill_and_replace(sleeper, 3)
            sleeper.forget_round()
            if killed >= 4:
                break
        sleeper.go()
        assert sleeper.results() == ["ok"]
    assert killed >= 4


def test_a_pager_killed_under_a_busy_process_is_replaced(node: Node) -> None:
    with Sleeper(node, 256) as sleeper:
        sleeper.dump()
        sleeper.go()
        pager = sleeper.start_pager()
        restoring = sleeper.start_restore()
        sleeper.monitor.take_until(RESTORED)
        sleeper.kill(pager)
        pager = sleeper.start_pager(resume=True)
        assert restoring.wait(60) == 0, sleeper.criu_log("restore")
        assert sleeper.finish(pager) == 0, pager.log
        assert sleeper.results() == ["ok"]


def test_damaged_images_fail_the_restore(node: Node) -> None:
    with Sleeper(node, 16) as sleeper:
        sleeper.dump()
        pagemap = node.path(f"{sleeper.images}/pagemap-{sleeper.pid}.img")
        pagemap.write_bytes(pagemap.read_bytes()[:-3])
        pager = sleeper.start_pager()
        assert sleeper.start_restore().wait(60) != 0
        assert sleeper.finish(pager) == 1
        assert RESTORED not in sleeper.monitor.told
