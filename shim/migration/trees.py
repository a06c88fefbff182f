# SPDX-License-Identifier: Apache-2.0
"""Sends the files of a pod in rounds, and takes them (docs/files.md).

The writable layer of a container is read from its overlay's upper directory and applied to the
merged root of the claimed container, so that overlayfs makes its own whiteouts there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from cri_proto import peer_pb2 as peer
from shim.core.launch import Anatomy
from shim.core.trees import Snapshot
from shim.files import places
from shim.files.applier import Applier
from shim.files.reading import Reading
from shim.files.tree import Summary, Tree, difference
from shim.peers.client import Peer

FILES_TIMEOUT_S = 900.0
QUOTA_BYTES = 1 << 40
QUOTA_ENTRIES = 4_000_000


@dataclass(slots=True)
class SourceTree:
    """One tree that travels.

    Attributes:
        name: "layer/CONTAINER" or "volume/NAME".
        tree: where it is.
        pids: processes that may have its files mapped.
        last: what the target has.
        frozen: what was there when the tasks had stopped.
    """

    name: str
    tree: Tree
    pids: tuple[int, ...] = ()
    last: Snapshot | None = None
    frozen: Snapshot | None = None

    def freeze(self) -> None:
        """Scans it while CRIU dumps the tasks, which stand still."""
        self.frozen = self.tree.scan()

    def begin(self) -> Reading | None:
        """Scans it, or looks for what CRIU's dump has added; None if the target has everything."""
        upper = self.tree if self.tree.is_overlay else None
        suspicious = places.mapped_files(self.pids, upper)
        seen = self.tree.rescan(self.frozen) if self.frozen else self.tree.scan()
        plan = difference(self.last, seen, suspicious)
        if plan.is_empty and self.last is not None:
            return None
        return Reading(self.tree, plan)


def trees_of(anatomies: Mapping[str, Anatomy], uid: str) -> list[SourceTree]:
    """The trees of a pod: the writable layer of each container, and its emptyDirs.

    Args:
        anatomies: its running containers by name.
        uid: of the pod.

    Raises:
        MissingFeature: a root is no writable overlay.
    """
    pids = tuple(pid for one in anatomies.values() for pid in one.tasks)
    found = [
        SourceTree(f"layer/{name}", places.layer_tree(seen.mounts), seen.tasks)
        for name, seen in anatomies.items()
    ]
    # One for all containers of a pod: the sandbox's shared memory.
    name, first = next(iter(anatomies.items()))
    shm = Path(f"/proc/{first.init_pid}/root/dev/shm")
    if any(one.point == "/dev/shm" for one in first.mounts):
        found.append(SourceTree(f"shm/{name}", Tree(shm, is_volatile=True), pids))
    for name, tree in places.empty_dirs(uid).items():
        found.append(SourceTree(f"volume/{name}", tree, pids))
    return found


async def send_trees(other: Peer, move: str, trees: Collection[SourceTree]) -> int:
    """One round of each; the bytes of content that went.

    Raises:
        PodferryError: the target's words, or why a tree cannot travel.
    """
    sent: list[int] = await asyncio.gather(*(_send(other, move, one) for one in trees))
    return sum(sent)


async def _send(other: Peer, move: str, one: SourceTree) -> int:
    reading = await asyncio.to_thread(one.begin)
    if reading is None:
        return 0
    frames = reading.frames()

    async def requests() -> AsyncIterator[peer.FilesRequest]:
        yield peer.FilesRequest(move=move, tree=one.name)
        while (frame := await asyncio.to_thread(next, frames, None)) is not None:
            yield peer.FilesRequest(frame=frame)

    async with other.asked() as stub:
        await stub.Files(requests(), timeout=FILES_TIMEOUT_S)
    one.last = reading.reached()
    return reading.figures.sent_bytes


async def apply_tree(root: Path, frames: AsyncIterator[bytes]) -> Summary:
    """Takes one round of one tree.

    Raises:
        InvalidMessage, Refused: the frames lead elsewhere or are too many.
    """
    applier = await asyncio.to_thread(Applier, root, QUOTA_BYTES, QUOTA_ENTRIES, devices=True)
    try:
        async for frame in frames:
            await asyncio.to_thread(applier.feed, frame)
        return await asyncio.to_thread(applier.finish)
    finally:
        applier.close()
