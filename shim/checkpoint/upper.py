# SPDX-License-Identifier: Apache-2.0
"""Writes what a container changed in its root file system as an OCI layer, from its overlay."""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

from shim.core.mounts import Mount
from shim.errors import MissingFeature

_OPAQUE_ATTRIBUTE = "trusted.overlay.opaque"
_OPAQUE_NAME = ".wh..wh..opq"
_WHITEOUT = ".wh."


def directory_of(mounts: tuple[Mount, ...]) -> Path:
    """The upper directory of a container's root.

    Raises:
        MissingFeature: its root is no overlay that can be written to.
    """
    root = next(one for one in mounts if one.point == "/")
    for option in root.file_system_options.split(","):
        if root.kind == "overlay" and option.startswith("upperdir="):
            return Path(option.removeprefix("upperdir="))
    raise MissingFeature(
        f"the root file system is {root.kind}, not a writable overlay",
        remedy="checkpoints need containerd's overlayfs snapshotter",
    )


def write_layer(upper: Path, mount_points: frozenset[str], target: Path) -> None:
    """Writes an upper directory as a layer: deletions as whiteouts (OCI image spec, layer.md).

    Args:
        upper: the directory.
        mount_points: paths in the container that are mounts; what the runtime made for them is
            left out.
        target: the tar file.
    """
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as tar:
        for path, name in _walk(upper):
            if "/" + name in mount_points:
                continue
            seen = path.lstat()
            if stat.S_ISCHR(seen.st_mode) and seen.st_rdev == 0:
                head, _, tail = name.rpartition("/")
                tar.addfile(tarfile.TarInfo(f"{head}/{_WHITEOUT}{tail}".lstrip("/")))
                continue
            if stat.S_ISSOCK(seen.st_mode):
                continue  # a socket's name means nothing without its listener
            tar.add(path, name, recursive=False)
            if stat.S_ISDIR(seen.st_mode) and _is_opaque(path):
                tar.addfile(tarfile.TarInfo(f"{name}/{_OPAQUE_NAME}"))


def _walk(upper: Path) -> Iterator[tuple[Path, str]]:
    for directory, folders, files in os.walk(upper):
        for name in sorted([*folders, *files]):
            path = Path(directory) / name
            yield path, str(path.relative_to(upper))


def _is_opaque(path: Path) -> bool:
    try:
        return os.getxattr(path, _OPAQUE_ATTRIBUTE, follow_symlinks=False) == b"y"
    except OSError:
        return False
