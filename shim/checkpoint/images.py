# SPDX-License-Identifier: Apache-2.0
"""Owns directories of images: made private, with a manifest of checksums, removed when done."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import msgspec

from shim.core.causes import CAUSES
from shim.errors import Refused

MANIFEST = "podferry-manifest.json"
# What an image needs beside the memory: registers, files, maps.
OVERHEAD_BYTES = 4 << 20
VIEW = "lazy"
"""Below an image: what CRIU reads of it while a pager brings the memory."""
_TMPFS_MAGIC = "tmpfs"


class ImagesDamaged(Refused):
    """Images are not as they were written; nothing may be restored from them."""


class Entry(msgspec.Struct, frozen=True):
    """A file of an image; ``sha256`` is "" for pages that are in memory all the time."""

    size_bytes: int
    sha256: str


def make(directory: Path) -> None:
    """Makes an empty private directory for one image; an older image there is removed."""
    directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    remove(directory)
    directory.mkdir(mode=0o700)


def remove(directory: Path) -> None:
    """Removes an image, if there is one."""
    shutil.rmtree(directory, ignore_errors=True)


def require_room(directory: Path, memory_bytes: int) -> None:
    """Refuses where an image of so much memory would not fit.

    Raises:
        Refused: there is not enough room, with figures.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    wanted = memory_bytes + memory_bytes // 20 + OVERHEAD_BYTES
    state = os.statvfs(directory)
    free = state.f_bavail * state.f_frsize
    if is_volatile(directory):
        # A tmpfs may promise more than there is; the pod's own memory is given back only later.
        free = min(free, _available_memory())
    if free < wanted:
        cause = CAUSES["no_room"]
        raise Refused(
            f"{cause.reason}: {wanted >> 20} MiB wanted, {free >> 20} MiB free",
            where=str(directory),
            remedy=cause.remedy,
        )


def is_volatile(directory: Path) -> bool:
    """Whether a directory lies in memory."""
    best, kind = "", ""
    real = str(directory.resolve())
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        point = left.split(" ")[4]
        inside = point == "/" or real == point or real.startswith(point + "/")
        if inside and len(point) >= len(best):
            best, kind = point, right.split(" ")[0]
    return kind in (_TMPFS_MAGIC, "ramfs")


def seal(directory: Path) -> int:
    """Writes the manifest of a complete image; returns the image's bytes."""
    entries = {}
    volatile = is_volatile(directory)
    for path in _files(directory):
        path.chmod(0o600)
        # What never leaves memory is damaged no more easily than the processes themselves were.
        trusted = volatile and path.name.startswith("pages-")
        name = str(path.relative_to(directory))
        entries[name] = Entry(path.stat().st_size, "" if trusted else _digest(path))
    manifest = directory / MANIFEST
    fresh = directory / (MANIFEST + ".new")
    fresh.write_bytes(msgspec.json.encode(entries))
    fresh.chmod(0o600)
    fresh.replace(manifest)
    return sum(one.size_bytes for one in entries.values())


def make_view(directory: Path) -> None:
    """Makes an image's view for a lazy restore, or makes it again.

    Raises:
        NativeError: a pagemap is not as CRIU writes it.
    """
    from shim import _native_images  # for the sake of a fast start of the service

    _native_images.make_view(directory, directory / VIEW)


def page_bytes(directory: Path) -> int:
    """How much memory an image holds."""
    return sum(path.stat().st_size for path in directory.glob("pages-*.img"))


def verify(directory: Path) -> None:
    """Proves that an image is as it was sealed.

    Raises:
        ImagesDamaged: it is not, naming the first file that differs.
    """
    try:
        entries = msgspec.json.decode((directory / MANIFEST).read_bytes(), type=dict[str, Entry])
    except (OSError, msgspec.DecodeError) as error:
        raise ImagesDamaged(
            f"the manifest cannot be read: {error}", where=str(directory)
        ) from error
    for name, entry in entries.items():
        path = directory / name
        try:
            whole = path.stat().st_size == entry.size_bytes
            whole = whole and (not entry.sha256 or entry.sha256 == _digest(path))
        except OSError:
            whole = False
        if not whole:
            cause = CAUSES["images_damaged"]
            raise ImagesDamaged(f"{name}: {cause.reason}", where=str(directory))


def _files(directory: Path) -> list[Path]:
    # All else in the view is a link to what is in the image.
    files = [*directory.glob("*.img"), *(directory / VIEW).glob("pagemap-[0-9]*.img")]
    return sorted(path for path in files if path.is_file())


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _available_memory() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0
