# SPDX-License-Identifier: Apache-2.0
"""Looks at a tree by its own walk, apart from the code under test, and says all there is to see."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import Any

Seen = dict[bytes, dict[str, Any]]


def look(root: Path, exclude: frozenset[bytes] = frozenset()) -> Seen:
    """Everything that a program could see of a tree, by path, the root included as b"."."""
    found: Seen = {}
    names: dict[tuple[int, int], list[bytes]] = {}
    base = os.fsencode(root)
    pending = [b"."]
    while pending:
        path = pending.pop()
        if path[2:] in exclude:
            continue
        full = os.path.join(base, path)
        seen = os.lstat(full)
        found[path] = _describe(full, seen)
        if stat.S_ISDIR(seen.st_mode):
            pending += [os.path.join(path, name) for name in os.listdir(full)]
        elif seen.st_nlink > 1:
            names.setdefault((seen.st_dev, seen.st_ino), []).append(path)
    for group in names.values():
        for path in group:
            found[path]["same as"] = sorted(group)
    return found


def _describe(full: bytes, seen: os.stat_result) -> dict[str, Any]:
    said: dict[str, Any] = {
        "mode": oct(seen.st_mode),
        "owner": (seen.st_uid, seen.st_gid),
        "mtime": seen.st_mtime_ns,
        "xattrs": _xattrs(full),
    }
    if stat.S_ISREG(seen.st_mode):
        said["size"] = seen.st_size
        said["content"] = _content(full)
    elif stat.S_ISLNK(seen.st_mode):
        said["target"] = os.readlink(full)
    elif stat.S_ISBLK(seen.st_mode) or stat.S_ISCHR(seen.st_mode):
        said["device"] = (os.major(seen.st_rdev), os.minor(seen.st_rdev))
    return said


def _xattrs(full: bytes) -> dict[str, bytes]:
    names = os.listxattr(full, follow_symlinks=False)
    return {
        name: os.getxattr(full, name, follow_symlinks=False)
        for name in names
        if not name.startswith("trusted.overlay.")
    }


def _content(full: bytes) -> str:
    """A hash of what is not zero, with where it is: a hole and zeros are the same."""
    result = hashlib.sha256()
    fd = os.open(full, os.O_RDONLY)
    try:
        end = os.fstat(fd).st_size
        at = 0
        while at < end:
            try:
                at = os.lseek(fd, at, os.SEEK_DATA) // 4096 * 4096
            except OSError:
                break
            chunk = os.pread(fd, 4096, at)
            if chunk.strip(b"\0"):
                result.update(b"%d:%s" % (at, chunk))
            at += 4096
    finally:
        os.close(fd)
    return result.hexdigest()


def differences(left: Seen, right: Seen) -> list[str]:
    """What differs, for people."""
    said = []
    for path in sorted(left.keys() | right.keys()):
        one, other = left.get(path), right.get(path)
        if one != other:
            said.append(f"{path!r}: {one} / {other}")
    return said
