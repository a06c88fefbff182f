# SPDX-License-Identifier: Apache-2.0
"""A process whose memory went through stream and store is restored by the real CRIU and is whole.

The workload (native/pager/tests/workload.c) checks every byte it owns, before and after.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from shim.errors import NativeError
from tests.node import pager_parts
from tests.node.fix_store import Mover
from tests.node.pager_parts import ALL_IN, STEP_DEADLINE_S
from tests.testbed.node import Node


@pytest.fixture(scope="module", autouse=True)
def binaries() -> None:
    """Built before a node waits for them."""
    pager_parts.build()


def test_a_process_is_whole_after_rounds_and_a_lazy_dump(node: Node, tmp_path: Path) -> None:
    with Mover(node, 64, tmp_path) as mover:
        mover.round()
        mover.go()
        for _ in range(3):
            mover.round()
        assert mover.results() == ["ok"]
        mover.dump_lazily()
        before = mover.sender.progress()
        sealed = mover.deliver()
        after = mover.sender.progress()
        # The last round was a small part of all: what T had was not sent again.
        assert 0 < after.pages_sent - before.pages_sent < before.pages_sent
        assert sealed.pages > 64 << 8 and sealed.recent_pages > 0
        mover.end_source()
        mover.go()
        pager = mover.start_pager()
        mover.restore()
        assert mover.finish(pager) == 0, pager.log
        assert mover.results() == ["ok"]
        assert ALL_IN in mover.monitor.told


def test_a_killed_pager_is_replaced_by_one_that_reads_the_store(node: Node, tmp_path: Path) -> None:
    with Mover(node, 256, tmp_path) as mover:
        mover.round()
        mover.dump_lazily()
        mover.deliver()
        mover.end_source()
        mover.go()
        pager = mover.start_pager()
        restoring = mover.start_restore()
        mover.monitor.take_until(pager_parts.RESTORED)
        mover.kill(pager)
        pager = mover.start_pager(resume=True)
        assert restoring.wait(STEP_DEADLINE_S) == 0, mover.criu_log("restore")
        assert mover.finish(pager) == 0, pager.log
        assert mover.results() == ["ok"]


def test_a_page_that_never_came_refuses_the_restore(node: Node, tmp_path: Path) -> None:
    with Mover(node, 16, tmp_path) as mover:
        mover.dump_lazily()
        mover.sender.send_directory(mover.node.path(mover.images))
        mover.sender.flush()
        with pytest.raises(NativeError, match="never came"):
            mover.store.seal()


def test_a_whole_image_comes_through_the_page_server(node: Node, tmp_path: Path) -> None:
    with Mover(node, 64, tmp_path) as mover:
        image_bytes = mover.dump_through_page_server()
        assert image_bytes > 64 << 20
        mover.restore_eagerly()
        mover.go()
        assert mover.results() == ["ok"]
