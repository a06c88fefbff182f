# SPDX-License-Identifier: Apache-2.0
"""The property: whatever a process does, rounds and a last one make an exact copy of its memory."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from shim import _native
from shim._native_track import Mode, ProcessTracker
from shim.errors import MissingFeature
from tests.native.track_parts import WORKLOADS, Mirror, compile_c, go_on, running, stop

pytestmark = pytest.mark.root
FREEZES = 6
ROUNDS_MAX = 8


@pytest.fixture(scope="module")
def mutate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        _native.require()
        _native.prove(_native.Feature.PAGEMAP_SCAN)
    except (MissingFeature, _native.NativeError) as error:
        pytest.skip(str(error))
    return compile_c(WORKLOADS / "mutate.c", tmp_path_factory.mktemp("mutate") / "mutate")


@pytest.mark.parametrize("mode", [Mode.WP_ASYNC, Mode.HASH])
@pytest.mark.parametrize("seed", range(4))
def test_the_mirror_is_exact_after_every_freeze(mutate: Path, mode: Mode, seed: int) -> None:
    chance = random.Random(seed)
    with running(mutate, str(seed)) as process, ProcessTracker(process.pid, mode) as tracker:
        mirror = Mirror(tracker)
        for _ in range(FREEZES):
            for _ in range(chance.randint(1, ROUNDS_MAX)):
                time.sleep(chance.random() * 0.05)
                mirror.take(tracker.round())
            stop(process.pid)
            mirror.take(tracker.final())
            assert mirror.differences() == []
            go_on(process.pid)
        assert tracker.mode is mode
        assert process.poll() is None


def test_memory_that_is_not_tracked_any_more_is_as_before(mutate: Path) -> None:
    with running(mutate, "9") as process:
        with ProcessTracker(process.pid, Mode.WP_ASYNC) as tracker:
            tracker.round()
            time.sleep(0.05)
            tracker.round()
            assert " uw" in Path(f"/proc/{process.pid}/smaps").read_text("utf-8")
        assert " uw" not in Path(f"/proc/{process.pid}/smaps").read_text("utf-8")
        with ProcessTracker(process.pid, Mode.WP_ASYNC) as tracker:
            mirror = Mirror(tracker)
            mirror.take(tracker.round())
            time.sleep(0.05)
            stop(process.pid)
            mirror.take(tracker.final())
            assert mirror.differences() == []
