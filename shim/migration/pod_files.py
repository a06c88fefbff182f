# SPDX-License-Identifier: Apache-2.0
"""Carries the files that kubelet writes for a pod to a node where no kubelet makes the replacement.

They are few and small: etc-hosts, termination logs, config maps, secrets, tokens. With a kubelet on
the target they are its own, and nothing of this is used.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import msgspec

from shim.core.volumes import PODS_ROOT, Bring, origin
from shim.errors import InvalidMessage, Refused

MOST_BYTES = 16 << 20
MOST_FILES = 10_000


class PodFile(msgspec.Struct, frozen=True):
    """One file, link or directory below the pod's directory.

    Attributes:
        path: below the pod's directory.
        mode: as stat has it, with the kind.
        uid: owner.
        gid: group.
        data: the contents, or the target of a link.
    """

    path: str
    mode: int
    uid: int
    gid: int
    data: bytes = b""


def read(host_paths: Sequence[str]) -> list[PodFile]:
    """What stands at those of the paths that kubelet writes, and the emptyDirs' own directories.

    Raises:
        Refused: it is more than such files can be, or a volume that only Kubernetes can attach.
    """
    files: list[PodFile] = []
    total = 0
    for host_path in sorted(set(host_paths)):
        of = origin(host_path)
        if of.bring is Bring.ATTACH:
            raise Refused(
                "it is a volume that only Kubernetes attaches to another node", where=host_path,
                remedy="let a kubelet on the target make the replacement (--claim)",
            )  # fmt: skip
        if of.bring is Bring.NODE:
            continue
        base = Path(PODS_ROOT) / of.uid
        whole = of.bring is Bring.KUBELET
        for one in _walk(Path(host_path), base, whole):
            files.append(one)
            total += len(one.data)
            if total > MOST_BYTES or len(files) > MOST_FILES:
                raise Refused("too much for files that kubelet writes", where=host_path)
    return files


def _walk(path: Path, base: Path, whole: bool) -> Iterator[PodFile]:
    status = path.lstat()
    name = str(path.relative_to(base))
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFLNK:
        data = os.fsencode(path.readlink())
    elif kind == stat.S_IFREG:
        data = path.read_bytes() if whole else b""
    elif kind == stat.S_IFDIR:
        data = b""
    else:
        return
    yield PodFile(name, status.st_mode, status.st_uid, status.st_gid, data)
    if kind == stat.S_IFDIR and whole:
        for one in sorted(path.iterdir()):
            yield from _walk(one, base, whole)


def write(uid: str, files: Sequence[PodFile]) -> None:
    """Makes them below the directory of a pod of this node.

    Raises:
        InvalidMessage: a name leads elsewhere; nothing of that file was made.
    """
    if not uid or "/" in uid or uid in (".", ".."):
        raise InvalidMessage(f"no UID of a pod: {uid!r}")
    base = Path(PODS_ROOT) / uid
    base.mkdir(mode=0o750, parents=True, exist_ok=True)
    for one in files:
        path = _below(base, one.path)
        if stat.S_ISDIR(one.mode):
            path.mkdir(exist_ok=True)
        elif stat.S_ISLNK(one.mode):
            path.unlink(missing_ok=True)
            path.symlink_to(os.fsdecode(one.data))
        elif stat.S_ISREG(one.mode):
            path.unlink(missing_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
                file.write(one.data)
        else:
            raise InvalidMessage("neither file, directory nor link", where=one.path)
        os.chown(path, one.uid, one.gid, follow_symlinks=False)
        if not stat.S_ISLNK(one.mode):
            path.chmod(stat.S_IMODE(one.mode))


def _below(base: Path, name: str) -> Path:
    """The path of a file, its parents made; no parent is a link, none leads out."""
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\0" in name:
        raise InvalidMessage("a name that leads out of the pod's directory", where=name)
    path = base
    for part in parts[:-1]:
        path = path / part
        if path.is_symlink():
            raise InvalidMessage("a link stands where a directory should", where=name)
        path.mkdir(mode=0o750, exist_ok=True)
    return path / parts[-1]
