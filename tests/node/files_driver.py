# SPDX-License-Identifier: Apache-2.0
"""Runs on a node: reads a round of a tree into a file, applies such a file, says how long it took.

files_driver.py send  layer CONTAINER   STATE FRAMES
files_driver.py send  volume UID/NAME   STATE FRAMES
files_driver.py apply layer|volume WHAT FRAMES
"""

from __future__ import annotations

import json
import pickle
import struct
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from shim.checkpoint import anatomy
from shim.core.trees import OPAQUE
from shim.files import places
from shim.files.applier import Applier
from shim.files.reading import Reading
from shim.files.tree import Tree, difference

LENGTH = struct.Struct("<I")


def trees(kind: str, what: str) -> tuple[Tree, Path]:
    """What is scanned, and where is applied."""
    if kind == "layer":
        layer = places.layer(what)
        return layer.upper, layer.merged
    uid, _, name = what.partition("/")
    tree = places.empty_dirs(uid)[name]
    return tree, tree.root


def send(kind: str, what: str, state: Path, out: Path) -> dict[str, Any]:
    """One round of S."""
    tree, _ = trees(kind, what)
    old = pickle.loads(state.read_bytes()) if state.exists() else None
    began = time.perf_counter()
    mapped = frozenset()
    if kind == "layer":
        mapped = places.mapped_files(anatomy.read(what).tasks, tree)
    new = tree.scan()
    scanned = time.perf_counter()
    reading = Reading(tree, difference(old, new, mapped))
    with out.open("wb") as file:
        for frame in reading.frames():
            file.write(LENGTH.pack(len(frame)) + frame)
    took = time.perf_counter()
    state.write_bytes(pickle.dumps(reading.reached()))
    figures = asdict(reading.figures)
    return figures | {
        "entries": new.entries,
        "mapped": len(mapped),
        "scan_ms": (scanned - began) * 1e3,
        "read_ms": (took - scanned) * 1e3,
        "is_empty": reading.plan.is_empty,
    }


def frames(path: Path) -> Iterator[bytes]:
    """The frames of a file."""
    with path.open("rb") as file:
        while head := file.read(LENGTH.size):
            yield file.read(LENGTH.unpack(head)[0])


def apply(kind: str, what: str, path: Path) -> dict[str, Any]:
    """One round of T."""
    tree, root = trees(kind, what)
    began = time.perf_counter()
    with Applier(root, 1 << 32, 1 << 20, devices=True) as applier:
        for frame in frames(path):
            applier.feed(frame)
        said = applier.finish()
    return {
        "apply_ms": (time.perf_counter() - began) * 1e3,
        "is_equal": tree.summary() == said,
        "exclude": sorted(one.decode() for one in tree.exclude),
        "merged": str(root),
    }


def show(kind: str, what: str) -> dict[str, Any]:
    """What goes into the summary, by path, for a test that finds two of them unequal."""
    tree, _ = trees(kind, what)
    return {
        repr(one.path): [one.flags & ~OPAQUE, oct(one.mode), one.uid, one.gid, one.links, one.size,
                         one.mtime, one.device]
        for one in tree.scan()
    }  # fmt: skip


if __name__ == "__main__":
    verb, kind, what, *rest = sys.argv[1:]
    answer = {"send": send, "apply": apply, "show": show}[verb](
        kind, what, *(Path(one) for one in rest)
    )
    print(json.dumps(answer))
