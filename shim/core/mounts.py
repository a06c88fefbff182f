# SPDX-License-Identifier: Apache-2.0
"""Reads mountinfo, and decides which mounts of a container CRIU is to leave to us.

All but two kinds are left to us. A tmpfs in an image is a `tar` run inside the freeze (5 ms each),
a bind mount needs its source anyway, and what is mounted now need not be what config.json said. So
each mount is external, and the wake binds it from a clone of the container's mount tree, which
keeps the contents of a tmpfs and the instance of a devpts alive too. CRIU makes the root itself,
and proc, which belongs to the pid namespace that is made anew.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from shim.errors import InvalidMessage

_ESCAPE = re.compile(r"\\([0-7]{3})")
KEY_PREFIX = "podferry:"


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of mountinfo (proc(5)), its paths unescaped.

    Attributes:
        mount_id: unique while it is mounted.
        parent_id: the mount that it is on.
        device: "major:minor" of the file system.
        root: what of the file system is mounted.
        point: where, as the process sees it.
        options: of this mount: "rw,nosuid".
        tags: propagation: "shared:1", "master:1".
        kind: the file system: "overlay", "proc".
        source: what mount(2) was told.
        file_system_options: of the file system: "rw,upperdir=/...".
    """

    mount_id: int
    parent_id: int
    device: str
    root: str
    point: str
    options: str
    tags: tuple[str, ...]
    kind: str
    source: str
    file_system_options: str = ""

    @property
    def ours(self) -> bool:
        """Whether CRIU is told to leave this mount to us."""
        return self.point != "/" and self.kind != "proc"

    @property
    def key(self) -> str:
        """The name under which CRIU's image refers to this mount."""
        return KEY_PREFIX + self.point


def parse(text: str) -> tuple[Mount, ...]:
    """Reads /proc/PID/mountinfo.

    Raises:
        InvalidMessage: a line is not as proc(5) says.
    """
    return tuple(_line(line) for line in text.splitlines() if line)


def _line(line: str) -> Mount:
    left, mark, right = line.partition(" - ")
    fields, rest = left.split(" "), right.split(" ")
    if not mark or len(fields) < 6 or len(rest) < 2:
        raise InvalidMessage(f"no line of mountinfo: {line!r}")
    return Mount(
        mount_id=int(fields[0]),
        parent_id=int(fields[1]),
        device=fields[2],
        root=_unescape(fields[3]),
        point=_unescape(fields[4]),
        options=fields[5],
        tags=tuple(fields[6:]),
        kind=rest[0],
        source=_unescape(rest[1]),
        file_system_options=_unescape(" ".join(rest[2:])),
    )


def _unescape(text: str) -> str:
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), text)


def external_for_dump(mounts: Sequence[Mount]) -> list[str]:
    """CRIU's `--external` values at a dump: where each mount is and what the image calls it."""
    return [f"mnt[{one.point}]:{one.key}" for one in mounts if one.ours]


def external_for_restore(mounts: Sequence[Mount], clone: str) -> list[str]:
    """CRIU's `--external` values at a restore: what the image calls each mount and its source.

    Args:
        mounts: as they were at the dump.
        clone: where the clone of the container's mount tree is mounted.
    """
    return [f"mnt[{one.key}]:{clone}{one.point}" for one in mounts if one.ours]


def hidden(mounts: Sequence[Mount]) -> list[str]:
    """Mount points that are mounted twice, so that the lower mount cannot be reached.

    CRIU cannot restore what it cannot open, and a clone shows the upper one alone.
    """
    seen: set[str] = set()
    twice = []
    for one in mounts:
        if one.point in seen:
            twice.append(one.point)
        seen.add(one.point)
    return twice
