# SPDX-License-Identifier: Apache-2.0
"""Benchmark of file transfer: last scans, a changed block, a first round; tar and rsync beside it.

    python -m tests.bench.migrate.files [--quick]

The last line on stdout is one JSON object. Everything is on the disk of /var/tmp, in memory by the
time it is measured.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from shim.core.trees import Snapshot
from shim.files.applier import Applier
from shim.files.reading import Reading
from shim.files.tree import RACY_NS, Tree, difference
from tests.bench.figures import machine, spread

BLOCK_BYTES = 64 << 10


def make_files(root: Path, count: int, size_bytes: int) -> None:
    """Files in directories of a hundred."""
    content = os.urandom(size_bytes)
    for number in range(count):
        path = root / str(number // 100) / str(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def carry(tree: Tree, target: Path, reached: Snapshot | None) -> tuple[Snapshot, int]:
    """One round in one process, both ends after each other; also the bytes of the frames."""
    reading = Reading(tree, difference(reached, tree.scan()))
    carried = 0
    with Applier(target, 1 << 40, 1 << 30, devices=True) as applier:
        for frame in reading.frames():
            carried += len(frame)
            applier.feed(frame)
        applier.finish()
    return reading.reached(), carried


def timed_ms(work: Callable[[], Any]) -> float:
    """How long something takes."""
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1e3


def last_scan(place: Path, count: int, rounds: int) -> dict[str, Any]:
    """What a last difference costs where nothing has changed."""
    root = place / f"scan-{count}"
    make_files(root, count, 10)
    time.sleep(2 * RACY_NS / 1e9)
    tree = Tree(root)
    reached = tree.scan()
    samples: dict[str, list[float]] = {"scan": [], "rescan": [], "difference": []}
    for _ in range(rounds):
        samples["scan"].append(timed_ms(tree.scan))
        new = tree.scan()
        samples["rescan"].append(timed_ms(partial(tree.rescan, new)))
        samples["difference"].append(timed_ms(partial(difference, reached, new)))
    return {name: spread(values) for name, values in samples.items()}


def changed_block(place: Path, size_bytes: int, rounds: int) -> dict[str, Any]:
    """A large file of which one block has changed."""
    source, target = place / "one", place / "one-target"
    source.mkdir()
    target.mkdir()
    (source / "file").write_bytes(os.urandom(size_bytes))
    tree = Tree(source)
    reached, _ = carry(tree, target, None)
    samples, carried = [], 0
    for number in range(rounds):
        with (source / "file").open("r+b") as file:
            file.seek(number * BLOCK_BYTES)
            file.write(os.urandom(8))
        began = time.perf_counter()
        reached, carried = carry(tree, target, reached)
        samples.append((time.perf_counter() - began) * 1e3)
    return {"ms": spread(samples), "frame_bytes": carried}


def peers(source: Path, target: Path) -> dict[str, list[str]]:
    """Commands that carry a tree from one directory to another."""
    found = {}
    if shutil.which("rsync"):
        found["rsync"] = ["rsync", "-aHAXS", f"{source}/", f"{target}/"]
    script = f"tar -C {source} --xattrs -cSf - . | tar -C {target} --xattrs -xSf -"
    found["tar"] = ["sh", "-c", script]
    return found


def first_round(place: Path, files: int, size_bytes: int, rounds: int) -> dict[str, Any]:
    """A first round beside what others need for the same tree."""
    source = place / f"first-{files}"
    make_files(source, files, size_bytes)
    samples: dict[str, list[float]] = {}
    for _ in range(rounds):
        target = place / "first-target"
        ways: dict[str, list[str] | None] = {"podferry": None, **peers(source, target)}
        for name, argv in ways.items():
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir()
            if argv is None:
                took = timed_ms(partial(carry, Tree(source), target, None))
            else:
                took = timed_ms(partial(subprocess.run, argv, check=True))
            samples.setdefault(name, []).append(took)
    total = files * size_bytes
    return {
        name: {"ms": spread(values), "mb_per_s": total / 1e3 / min(values)}
        for name, values in samples.items()
    }


def main() -> None:
    """Runs all of it."""
    quick = "--quick" in sys.argv
    rounds = 3 if quick else 9
    place = Path(tempfile.mkdtemp(prefix="podferry-bench-files-", dir="/var/tmp"))
    try:
        results: dict[str, Any] = {"machine": machine()}
        for count in (1_000, 10_000) if quick else (1_000, 10_000, 50_000):
            results[f"last_scan_{count}_files_ms"] = last_scan(place, count, rounds)
        results["changed_block_of_100_mb"] = changed_block(place, 100_000_000, rounds)
        few = 3 if quick else 5
        results["first_round_64_files_of_4_mib"] = first_round(place, 64, 4 << 20, few)
        results["first_round_5000_files_of_4_kib"] = first_round(place, 5_000, 4 << 10, few)
        print(json.dumps(results))
    finally:
        shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    main()
