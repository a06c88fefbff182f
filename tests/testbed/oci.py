# SPDX-License-Identifier: Apache-2.0
"""Writes container images as OCI archives; knows the format (image-spec v1), not the contents.

It runs inside the node image too, so it uses the standard library only.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True)
class Entry:
    """One file of a layer.

    Attributes:
        path: where it stands, without a leading slash.
        content: a regular file's bytes, or None.
        link: a symbolic link's target, or None; neither means a directory.
        mode: its permission bits.
        uid: its owner, and its group.
    """

    path: str
    content: bytes | None = None
    link: str | None = None
    mode: int = 0o755
    uid: int = 0


@dataclass(frozen=True)
class Image:
    """An image to be written.

    Attributes:
        name: the full reference, tag included.
        layers: tar archives, lowest first.
        command: what runs if the pod says nothing else.
        env: its environment.
        user: "" for root.
    """

    name: str
    layers: tuple[bytes, ...]
    command: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    user: str = ""


def layer(entries: Iterable[Entry]) -> bytes:
    """A layer with those files; parents come first, times are zero: same files, same digest."""
    buffer = io.BytesIO()
    unique = {entry.path: entry for entry in entries}
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(unique):
            entry = unique[path]
            info = tarfile.TarInfo(path)
            info.mode, info.uid, info.gid = entry.mode, entry.uid, entry.uid
            if entry.link is not None:
                info.type, info.linkname = tarfile.SYMTYPE, entry.link
                tar.addfile(info)
            elif entry.content is not None:
                info.size = len(entry.content)
                tar.addfile(info, io.BytesIO(entry.content))
            else:
                info.type = tarfile.DIRTYPE
                tar.addfile(info)
    return buffer.getvalue()


def write_archive(target: Path, images: Iterable[Image]) -> None:
    """Writes an OCI layout as one tar, which ``ctr images import`` reads; equal layers once."""
    blobs: dict[str, bytes] = {}

    def store(content: bytes, media_type: str) -> dict[str, Any]:
        digest = hashlib.sha256(content).hexdigest()
        blobs[digest] = content
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}

    manifests = []
    for image in images:
        layers = [store(one, "application/vnd.oci.image.layer.v1.tar") for one in image.layers]
        config = store(
            _json(_config(image, [one["digest"] for one in layers])),
            "application/vnd.oci.image.config.v1+json",
        )
        manifest = {"schemaVersion": 2, "config": config, "layers": layers}
        media_type = "application/vnd.oci.image.manifest.v1+json"
        descriptor = store(_json({**manifest, "mediaType": media_type}), media_type)
        descriptor["annotations"] = {
            # containerd's importer reads the full name from the first, others the tag.
            "io.containerd.image.name": image.name,
            "org.opencontainers.image.ref.name": image.name.rpartition(":")[2],
        }
        manifests.append(descriptor)
    files = {
        "oci-layout": _json({"imageLayoutVersion": "1.0.0"}),
        "index.json": _json({"schemaVersion": 2, "manifests": manifests}),
        **{f"blobs/sha256/{digest}": content for digest, content in blobs.items()},
    }
    target.write_bytes(layer(Entry(path, content, mode=0o644) for path, content in files.items()))


def _config(image: Image, diff_ids: list[str]) -> dict[str, Any]:
    # diff_ids are digests of uncompressed layers, and ours are uncompressed.
    return {
        "architecture": ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "config": {
            "Env": [f"{key}={value}" for key, value in image.env.items()],
            "Cmd": list(image.command),
            "User": image.user,
            "WorkingDir": "/",
        },
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True).encode()
