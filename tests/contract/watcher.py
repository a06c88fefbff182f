# SPDX-License-Identifier: Apache-2.0
"""Looks at a socket's path thousands of times a second, from a process of its own.

    python -m tests.contract.watcher PATH

Ends at the end of its input and prints, as JSON, what it saw each time that changed: [] for
nothing, else [inode, uid, gid, mode].
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.contract.shim_process import ROOT

LOOK_AGAIN_S = 0.0001
"""Without a pause the watcher would take a processor for itself, from those it watches."""


@dataclass
class Sight:
    """What stood at the path for a while; all fields None while there was nothing."""

    inode: int | None = None
    uid: int | None = None
    gid: int | None = None
    mode: int | None = None


@dataclass
class Sights:
    """All that was seen, in order; filled when the watch ends."""

    seen: list[Sight] = field(default_factory=list)
    looks: int = 0

    @property
    def present(self) -> list[Sight]:
        """Without the times of absence."""
        return [sight for sight in self.seen if sight.inode is not None]


@contextlib.contextmanager
def watched(path: Path) -> Iterator[Sights]:
    """Watches a path for the length of a block."""
    sights = Sights()
    watcher = subprocess.Popen(
        [sys.executable, "-m", "tests.contract.watcher", str(path)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert watcher.stdout and watcher.stdout.readline() == b"watching\n"
        yield sights
        output, _ = watcher.communicate(timeout=10)
        told = json.loads(output)
        sights.seen = [Sight(*item) for item in told["seen"]]
        sights.looks = told["looks"]
    finally:
        if watcher.poll() is None:
            watcher.kill()
            watcher.communicate()


def _watch(path: str) -> None:
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    print("watching", flush=True)
    seen: list[list[int]] = []
    looks, last = 0, None
    while not ended.is_set():
        time.sleep(LOOK_AGAIN_S)
        looks += 1
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            sight = []
        else:
            sight = [found.st_ino, found.st_uid, found.st_gid, found.st_mode & 0o7777]
        if sight != last:
            last = sight
            seen.append(sight)
    print(json.dumps({"seen": seen, "looks": looks}))


if __name__ == "__main__":
    _watch(sys.argv[1])
