# SPDX-License-Identifier: Apache-2.0
"""All processes of a container: they come, go, execute other programs, and share memory."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import Popen

import pytest

from shim import _native
from shim._native_track import PAGE_BYTES, Mode
from shim.errors import MissingFeature, NativeError
from shim.memory.tracker import PodRound, PodTracker, descendants, image_pid
from tests.native.track_parts import WORKLOADS, compile_c, running, tell

pytestmark = pytest.mark.root
BLOCK_PAGES = 64


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        _native.require()
        _native.prove(_native.Feature.PAGEMAP_SCAN)
    except (MissingFeature, NativeError) as error:
        pytest.skip(str(error))
    return compile_c(WORKLOADS / "obey.c", tmp_path_factory.mktemp("obey") / "obey")


@pytest.fixture
def process(program: Path) -> Iterator[Popen[str]]:
    with running(program) as process:
        yield process


@pytest.fixture
def pod(process: Popen[str]) -> Iterator[PodTracker]:
    pod = PodTracker(lambda: descendants(process.pid))
    yield pod
    pod.close()


def order(process: Popen[str], line: str) -> int:
    return int(tell(process, line), 16)


def pages_of(found: PodRound, pid: int) -> int:
    return found.rounds[pid].statistics.pages


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_child_comes_with_everything_and_goes(process: Popen[str], pod: PodTracker) -> None:
    first = pod.round()
    assert set(first.rounds) == {process.pid}
    assert pages_of(first, process.pid) >= BLOCK_PAGES
    child = order(process, "fork")
    second = pod.round()
    assert set(second.rounds) == {process.pid, child}
    assert pages_of(second, child) >= BLOCK_PAGES
    assert pages_of(second, process.pid) < BLOCK_PAGES
    assert second.members[child].mode is Mode.WP_ASYNC
    assert second.members[child].image_pid == child
    assert pod.round().pages < BLOCK_PAGES
    os.kill(child, signal.SIGKILL)
    wait_until(lambda: "Z" in Path(f"/proc/{child}/stat").read_text("utf-8").rsplit(")", 1)[1])
    third = pod.round()
    assert set(third.rounds) == {process.pid}
    assert third.ended == {child}
    assert pod.round().ended == frozenset()


def test_another_program_is_all_new(process: Popen[str], pod: PodTracker) -> None:
    pod.round()
    assert pod.round().pages < BLOCK_PAGES
    tell(process, "exec")
    found = pod.round()
    assert found.ended == {process.pid}
    assert pages_of(found, process.pid) >= BLOCK_PAGES


def test_shared_memory_is_sent_once(process: Popen[str], pod: PodTracker) -> None:
    child = order(process, "share")
    found = pod.round()
    assert found.sharing == {child: process.pid}
    assert set(found.rounds) == {process.pid}


def test_what_was_forgotten_is_given_again(process: Popen[str], pod: PodTracker) -> None:
    pod.round()
    pod.forget()
    assert pages_of(pod.round(), process.pid) >= BLOCK_PAGES
    assert pod.final().registered_share == 1.0


def test_processes_in_a_pid_namespace_have_the_pids_of_their_images(program: Path) -> None:
    with running("unshare", "--pid", "--fork", "--kill-child", program) as outer:
        (inner,) = (pid for pid in descendants(outer.pid) if pid != outer.pid)
        assert image_pid(inner) == 1
        pod = PodTracker(lambda: descendants(inner))
        child = order(outer, "fork")
        assert child == 2
        found = pod.round()
        assert sorted(one.image_pid for one in found.members.values()) == [1, 2]
        assert found.pages * PAGE_BYTES > 0
        pod.close()
