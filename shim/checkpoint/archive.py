# SPDX-License-Identifier: Apache-2.0
"""Writes the archive of CRI's CheckpointContainer, as checkpointctl and containerd read it.

Its parts are those of containerd 2.1 (internal/cri/server/container_checkpoint_linux.go): CRIU's
images below checkpoint/, the changed files, the OCI bundle's configuration, CRI's status, the log.
The container stands still while its files and its memory are written, so that both agree, and runs
on before anything is packed.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tarfile
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from shim.checkpoint import anatomy, bed, cores, freezer, images, request, sockets, stats, upper
from shim.checkpoint.anatomy import Places
from shim.core import launch
from shim.core.launch import Anatomy
from shim.errors import InvalidInput, MissingFeature, PodferryError
from shim.runtime import monitor
from shim.runtime.monitor import CriuFailed, Monitor

_CONTAINERS = Path("/var/lib/containerd/io.containerd.grpc.v1.cri/containers")


@dataclass(frozen=True, slots=True)
class Written:
    """What a checkpoint took."""

    frozen_ms: float
    archive_bytes: int


async def write(container_id: str, status: Message, location: str, work_dir: Path) -> Written:
    """Writes a container's archive; the container runs on, and nothing else is left.

    Args:
        container_id: the runtime's id.
        status: CRI's ContainerStatus of it.
        location: the file, as CRI names it.
        work_dir: a directory for what is packed.

    Raises:
        InvalidInput: the location is no absolute path.
        DumpFailed: CRIU could not do it.
        PodferryError: the container has no monitor, or is in no state for it.
    """
    target = Path(location)
    if not target.is_absolute():
        raise InvalidInput("the location of a checkpoint is an absolute path", where=location)
    place = await asyncio.to_thread(_make_place, work_dir)
    try:
        seen = await asyncio.to_thread(anatomy.read, container_id)
        await _dump(seen, place)
        await asyncio.to_thread(_describe, seen, status, place)
        size = await asyncio.to_thread(_pack, place, target)
        return Written(stats.read_dump(place).frozen_ms, size)
    finally:
        await asyncio.to_thread(shutil.rmtree, place, ignore_errors=True)


def _make_place(work_dir: Path) -> Path:
    work_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix="checkpoint-", dir=work_dir))


async def _dump(seen: Anatomy, place: Path) -> None:
    directory = place / "checkpoint"
    images.make(directory)
    points = frozenset(one.point for one in seen.mounts)
    config = _config(seen)
    masked = (config.get("linux") or {}).get("maskedPaths") or []
    bound = [one["destination"] for one in config.get("mounts") or [] if one["type"] == "bind"]
    async with Monitor(monitor.find(seen.container_id)) as asked:
        with freezer.frozen([seen]) as groups:
            layer = place / "rootfs-diff.tar"
            await asyncio.to_thread(upper.write_layer, _upper(seen), points, layer)
            what = launch.archive(seen, str(directory), bound, masked, groups[seen.container_id])
            try:
                await asked.checkpoint(request.encode(what), leave_running=True)
            except CriuFailed as error:
                name = seen.container_id
                raise bed.explained(name, directory / "dump.log", error) from error
    await asyncio.to_thread(_correct, directory)
    # Beside the images, where checkpointctl looks for them.
    for name in ("stats-dump", "dump.log"):
        shutil.move(directory / name, place / name)
    pipes = {one.number: one.key for one in seen.stdio}
    keys = [pipes.get(number, "/dev/null") for number in range(3)]
    (directory / "descriptors.json").write_text(json.dumps(keys))


def _correct(directory: Path) -> None:
    cores.make_calls_again(directory)
    sockets.close_connections(directory)


def _upper(seen: Anatomy) -> Path:
    """The upper directory as this process sees it; its path is that of the runtime's mounts."""
    found = upper.directory_of(seen.mounts)
    if not found.is_dir():
        raise MissingFeature("the changed files cannot be read", where=str(found))
    return found


def _config(seen: Anatomy) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(Places().config(seen.container_id).read_bytes())
    return config


def _describe(seen: Anatomy, status: Message, place: Path) -> None:
    """Writes the files that describe the container."""
    told = go_json(status)
    now = datetime.now(UTC)
    metadata = told.get("metadata", {})
    notes = _config(seen).get("annotations") or {}
    prefix = "io.kubernetes.cri.sandbox-"
    parts = [metadata.get("name", ""), notes.get(prefix + "name", "")]
    parts += [notes.get(prefix + "namespace", ""), notes.get(prefix + "uid", "")]
    image = told.get("image", {}).get("image", "")
    config = {
        "id": seen.container_id,
        "name": "_".join([*parts, str(metadata.get("attempt", 0))]),
        "rootfsImage": image,
        "rootfsImageRef": told.get("image_ref", ""),
        "rootfsImageName": image,
        "runtime": "io.containerd.runc.v2",
        "createdTime": _time(int(told.get("created_at", 0))),
        "checkpointedTime": now.isoformat(),
        "restoredTime": "0001-01-01T00:00:00Z",
        "restored": False,
    }
    (place / "config.dump").write_text(json.dumps(config))
    (place / "status.dump").write_text(json.dumps(told))
    shutil.copyfile(Places().config(seen.container_id), place / "spec.dump")
    own = _CONTAINERS / seen.container_id / "status"
    if own.exists():
        shutil.copyfile(own, place / "status")
    log = Path(told.get("log_path", "") or "/nonexistent")
    if log.is_file():
        shutil.copyfile(log, place / "container.log")


def _time(nanoseconds: int) -> str:
    return datetime.fromtimestamp(nanoseconds / 1e9, UTC).isoformat()


def _pack(place: Path, target: Path) -> int:
    """Packs a directory into a file of our own making, which appears whole or not at all."""
    fresh = target.with_name(f".{target.name}.podferry")
    try:
        with tarfile.open(fresh, "x", format=tarfile.PAX_FORMAT) as tar:
            for path in sorted(place.rglob("*")):
                tar.add(path, str(path.relative_to(place)), recursive=False)
        fresh.chmod(0o600)
        size = fresh.stat().st_size
        os.replace(fresh, target)  # noqa: PTH105 - the name must not be resolved
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise PodferryError(
            f"the archive cannot be written: {error.strerror}", where=str(target)
        ) from error
    return size


def go_json(message: Message) -> dict[str, Any]:
    """A message as Go's encoding/json writes its struct: numbers as numbers, enums as numbers."""
    return {field.name: _value(message, field, value) for field, value in message.ListFields()}


def _value(message: Message, field: FieldDescriptor, value: Any) -> Any:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return {str(key): value[key] for key in value}
    if field.is_repeated:
        return [go_json(one) if isinstance(one, Message) else one for one in value]
    return go_json(value) if isinstance(value, Message) else value
