# SPDX-License-Identifier: Apache-2.0
"""The installer's memory: what was on the node before, what was written, how far it came.

Written before anything else is touched, so that every later crash finds in it what to put back.
Back-ups are named by the SHA-256 of their content, so saving one twice is saving it once.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import msgspec

from shim.errors import InstallRefused
from shim.installer.content import INSTALL_DIR, SETTINGS
from shim.installer.edits import Edit
from shim.installer.tree import Tree

PATH = f"{INSTALL_DIR}/manifest.json"
BACKUP_DIR = f"{INSTALL_DIR}/backup"
FORMAT = 1

Role = Literal["settings", "sysctl", "unit", "containerd", "kubelet"]


class Original(msgspec.Struct, frozen=True):
    """A file as it was before podferry; its bytes are in the back-up of that digest."""

    sha256: str
    mode: int
    uid: int
    gid: int
    mtime_ns: int


class FileRecord(msgspec.Struct, frozen=True):
    """One file that install writes.

    Attributes:
        path: the file, links followed.
        role: what it is for; decides the order and what becomes of it if somebody edits it.
        original: what was there, None if nothing was.
        written: SHA-256 of what we wrote; "" for a symbolic link.
        link_target: where our symbolic link points, "" for a regular file.
        edits: the values changed, empty if the whole file is ours.
    """

    path: str
    role: Role
    original: Original | None = None
    written: str = ""
    link_target: str = ""
    edits: tuple[Edit, ...] = ()


class SysctlRecord(msgspec.Struct, frozen=True):
    """A running kernel value that install changed."""

    key: str
    former: str
    value: str


class AnnotationRecord(msgspec.Struct, frozen=True):
    """kubeadm's note of the CRI socket on the Node object."""

    node: str
    former: str
    value: str


class Moment(msgspec.Struct, frozen=True):
    """A time that survives clock changes and can be compared with a process's start."""

    boot_id: str
    since_boot_s: float


class Manifest(msgspec.Struct, frozen=True):
    """All of it.

    Attributes:
        state: "installing" and "uninstalling" are journal entries: a run is under way or crashed.
        version: podferry's version that wrote it.
        endpoint: what kubelet was pointed at.
        former_runtime: the endpoint kubelet used before.
        former_image: its image endpoint, None if it had none of its own.
        kubelet_unit: the unit that runs kubelet.
        kubelet_configs: what the user named with --kubelet-config; a later run needs it again.
        settings_path: the settings file the unit names.
        kubelet_changed: when kubelet's files were last changed, None if never on a running node.
        dirs: directories that did not exist before, outermost first.
    """

    state: Literal["installing", "installed", "uninstalling"]
    version: str
    endpoint: str
    former_runtime: str
    former_image: str | None
    kubelet_unit: str
    format: int = FORMAT
    kubelet_configs: tuple[str, ...] = ()
    settings_path: str = SETTINGS
    kubelet_changed: Moment | None = None
    files: tuple[FileRecord, ...] = ()
    dirs: tuple[str, ...] = ()
    sysctls: tuple[SysctlRecord, ...] = ()
    annotation: AnnotationRecord | None = None

    def file(self, path: str) -> FileRecord | None:
        """The record of one file."""
        return next((f for f in self.files if f.path == path), None)


def digest(content: bytes) -> str:
    """The name of a back-up."""
    return hashlib.sha256(content).hexdigest()


def backup_path(sha256: str) -> str:
    """Where a back-up lies on the node."""
    return f"{BACKUP_DIR}/{sha256}"


def read(tree: Tree) -> Manifest | None:
    """Reads the manifest of a node, None if nothing is installed.

    Raises:
        InstallRefused: it is damaged or of a later podferry.
    """
    content = tree.read(PATH)
    if content is None:
        return None
    try:
        manifest = msgspec.json.decode(content, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InstallRefused(
            f"is not a manifest of podferry: {error}",
            where=PATH,
            remedy=f"put the files back by hand from {BACKUP_DIR}, then remove {INSTALL_DIR}",
        ) from error
    if manifest.format != FORMAT:
        raise InstallRefused(
            f"has format {manifest.format}, this podferry knows {FORMAT}",
            where=PATH,
            remedy="use the version of podferry that installed it",
        )
    return manifest


def encode(manifest: Manifest) -> bytes:
    """The manifest as indented JSON: people read it when things went wrong."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"
