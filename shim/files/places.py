# SPDX-License-Identifier: Apache-2.0
"""Finds a pod's trees on its node: the writable layers of its containers, its emptyDir volumes."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from shim.checkpoint.anatomy import Places
from shim.core import mounts
from shim.core.mounts import Mount
from shim.errors import InvalidMessage, MissingFeature, NotFound
from shim.files.tree import Tree, is_tmpfs

KUBELET_PODS = Path("/var/lib/kubelet/pods")
_EMPTY_DIRS = "volumes/kubernetes.io~empty-dir"


@dataclass(frozen=True, slots=True)
class Layer:
    """The writable layer of a container.

    Attributes:
        upper: what the container changed, as the overlay keeps it: scanned and read at S, and
            scanned at T.
        merged: the container's root as the node sees it: where T applies, so that the overlay
            makes its own marks.
    """

    upper: Tree
    merged: Path


def layer(container_id: str, places: Places | None = None) -> Layer:
    """The writable layer of a container that runs, or is claimed and waits.

    What is mounted in the container is not part of its layer, nor are the mount points that the
    runtime made in it.

    Raises:
        NotFound: there is no such container, or its first process has ended.
        InvalidMessage: runc's state is not what it should be.
        MissingFeature: its root is no writable overlay of a kind that can be carried.
    """
    path = (places or Places()).state(container_id)
    try:
        state = json.loads(path.read_bytes())
        pid, merged = int(state["init_process_pid"]), Path(str(state["config"]["rootfs"]))
        text = Path(f"/proc/{pid}/mountinfo").read_text()
    except OSError as error:
        raise NotFound("no such container", where=f"container {container_id}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidMessage(f"no state of runc's: {error!r}", where=str(path)) from error
    table = mounts.parse(text)
    return Layer(layer_tree(table), merged)


def layer_tree(table: Iterable[Mount]) -> Tree:
    """The upper directory of a container's root, by its mount table.

    Raises:
        MissingFeature: its root is no writable overlay of a kind that can be carried.
    """
    listed = list(table)
    root = next((one for one in listed if one.point == "/"), None)
    options = root.file_system_options.split(",") if root else []
    uppers = [one.removeprefix("upperdir=") for one in options if one.startswith("upperdir=")]
    if root is None or root.kind != "overlay" or not uppers:
        kind = root.kind if root else "nothing"
        raise MissingFeature(
            f"the root file system is {kind}, not a writable overlay",
            remedy="migration needs containerd's overlayfs snapshotter",
        )
    if "userxattr" in options:
        raise MissingFeature(
            "the overlay keeps its marks in attributes of users",
            remedy="run containerd as root, without user namespaces around it",
        )
    points = frozenset(os.fsencode(one.point[1:]) for one in listed if one.point != "/")
    return Tree(Path(uppers[0]), is_overlay=True, exclude=points)


def empty_dirs(pod_uid: str, pods: Path = KUBELET_PODS) -> dict[str, Tree]:
    """A pod's emptyDir volumes by name, those in memory included.

    Raises:
        InvalidMessage: this is no UID.
    """
    if not pod_uid or "/" in pod_uid or pod_uid in (".", ".."):
        raise InvalidMessage(f"no UID of a pod: {pod_uid!r}")
    directory = pods / pod_uid / _EMPTY_DIRS
    try:
        found = sorted(one for one in directory.iterdir() if one.is_dir())
    except FileNotFoundError:
        return {}
    return {one.name: Tree(one, is_volatile=is_tmpfs(one)) for one in found}


def mapped_files(pids: Iterable[int], upper: Tree | None = None) -> frozenset[tuple[int, int]]:
    """Device and inode of the files that processes have mapped shared and may write to.

    Such writes may leave a file's times as they are (a page that is dirty already is written
    without a fault), so these files are compared by content.

    Args:
        pids: the processes of one container.
        upper: its layer: an overlay tells another inode than its upper directory.
    """
    found: set[tuple[int, int]] = set()
    for pid in pids:
        try:
            with Path(f"/proc/{pid}/maps").open("rb") as lines:
                areas = [line.split(b" ", 2)[0] for line in lines if _is_shared(line)]
        except OSError:
            continue  # it has ended
        for area in areas:
            found |= _file_of(Path(f"/proc/{pid}/map_files/{_key(area)}"), upper)
    return frozenset(found)


def _is_shared(line: bytes) -> bool:
    """Whether a line of maps is of a shared mapping; mprotect may make any of them writable."""
    fields = line.split(None, 5)
    return len(fields) == 6 and fields[1].endswith(b"s") and fields[4] != b"0"


def _key(area: bytes) -> str:
    """The name in map_files, which has no leading zeros."""
    start, _, end = area.partition(b"-")
    return f"{int(start, 16):x}-{int(end, 16):x}"


def _file_of(link: Path, upper: Tree | None) -> set[tuple[int, int]]:
    found: set[tuple[int, int]] = set()
    with contextlib.suppress(OSError):  # unmapped meanwhile
        seen = link.stat()
        found.add((seen.st_dev, seen.st_ino))
    if upper is not None:
        with contextlib.suppress(OSError):  # not of this layer
            own = (upper.root / str(link.readlink()).lstrip("/")).lstat()
            found.add((own.st_dev, own.st_ino))
    return found
