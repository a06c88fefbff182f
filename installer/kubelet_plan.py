# SPDX-License-Identifier: Apache-2.0
"""Decides which files must change so that kubelet takes our socket, and proves it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from shim.errors import InstallRefused
from shim.installer import content, flag_edit, kubelet, yaml_edit
from shim.installer.edits import Edit, Edited, decode
from shim.installer.kubelet import IMAGE_FLAG, IMAGE_KEY, RUNTIME_FLAG, RUNTIME_KEY, Kubelet
from shim.installer.manifest import FileRecord, Manifest, digest
from shim.installer.steps import Write
from shim.installer.tree import Overlay, Tree, same_socket


@dataclass(frozen=True)
class Target:
    """What kubelet shall be pointed at.

    Attributes:
        endpoint: our socket as a URL.
        image: whether the image endpoint is set to the runtime's socket and must come along.
    """

    endpoint: str
    image: bool


class FileEdits:
    """Collects edits of several files; each file becomes one write, however many values change."""

    def __init__(self, tree: Tree, manifest: Manifest | None) -> None:
        self._tree = tree
        self._manifest = manifest
        self._writes: dict[str, Write] = {}

    def overlay(self) -> Overlay:
        """The node's files as they would be."""
        return Overlay(self._tree, {path: w.content for path, w in self._writes.items()})

    def writes(self) -> list[Write]:
        """The writes, in the order the files were first touched."""
        return list(self._writes.values())

    def edit(self, path: str, why: str, change: Callable[[bytes], Edited | None]) -> None:
        """Applies one edit to one file; a file that needs none is not written."""
        path = self._tree.resolve(path)
        earlier = self._writes.get(path)
        now = earlier.now if earlier else self._tree.read(path)
        edited = change(earlier.content if earlier else now or b"")
        if edited is None:
            return
        base, edits = (earlier.base, earlier.edits) if earlier else self._before_us(path, now)
        edits = (*edits, edited.edit)
        self._writes[path] = Write(path, edited.content, "kubelet", why, now, base, edits)

    def add(self, path: str, new: bytes, endpoint: str, why: str) -> None:
        """Writes a whole file of ours, or edits it if somebody put more into it since."""
        path = self._tree.resolve(path)
        now = self._tree.read(path)
        record = self._record(path)
        if record is not None and now is not None and digest(now) != record.written:
            self.edit(path, why, lambda text: yaml_edit.set_key(text, RUNTIME_KEY, endpoint, path))
        elif now != new or record is None:
            # The same text without a record is a crash's or an older run's: uninstall takes it.
            base = now if record is None and now != new else None
            self._writes[path] = Write(path, new, "kubelet", why, now, base)

    def _before_us(self, path: str, now: bytes | None) -> tuple[bytes | None, tuple[Edit, ...]]:
        """What the file held before podferry, and our edits that are in it already."""
        record = self._record(path)
        if record is None or now is None:
            return now, ()
        remaining = tuple(e for e in record.edits if put_back(now, e, path) is not None)
        return (undo(now, record, path) if record.original else None), remaining

    def _record(self, path: str) -> FileRecord | None:
        return self._manifest.file(path) if self._manifest else None


def put_back(now: bytes, edit: Edit, where: str) -> bytes | None:
    """Undoes one edit, None if its value is no longer there."""
    if edit.syntax == "yaml":
        return yaml_edit.put_back(now, edit, where)
    return flag_edit.put_back(decode(now, where), edit)


def undo(now: bytes, record: FileRecord, where: str) -> bytes:
    """A file without the edits of ours that are still in it."""
    for edit in reversed(record.edits):
        undone = put_back(now, edit, where)
        now = now if undone is None else undone
    return now


def plan_kubelet(
    tree: Tree, found: Kubelet, target: Target, manifest: Manifest | None
) -> list[Write]:
    """The writes that point kubelet at us.

    Raises:
        InstallRefused: there is no safe way, or the result would not be what kubelet then reads.
    """
    edits = FileEdits(tree, manifest)
    drop_in = _place(edits, tree, found, target, RUNTIME_FLAG, RUNTIME_KEY)
    if target.image and (other := _place(edits, tree, found, target, IMAGE_FLAG, IMAGE_KEY)):
        drop_in = other
    if drop_in:
        text = content.kubelet_drop_in(target.endpoint, image=target.image)
        edits.add(drop_in, text, target.endpoint, "kubelet's drop-ins beat its configuration file")
    _instance_config(edits, tree, found, target)
    _prove(edits.overlay(), found, target)
    return edits.writes()


def _place(
    edits: FileEdits, tree: Tree, found: Kubelet, target: Target, flag: str, key: str
) -> str | None:
    """Edits where the value is decided; returns the drop-in to write if that is the place."""
    said = (
        kubelet.runtime_endpoint(tree, found)
        if key == RUNTIME_KEY
        else kubelet.image_endpoint(tree, found)
    )
    if same_socket(said.value, target.endpoint):
        # Ours already; a drop-in of ours is still checked against the text it should have.
        ours = said.place == "drop-in" and said.path.endswith(content.KUBELET_DROP_IN_NAMES)
        return said.path if ours else None
    if said.place == "flag":
        for path in dict.fromkeys(region.path for region in found.regions):
            regions = [region for region in found.regions if region.path == path]
            _edit_flag(edits, path, regions, flag, target)
        return None
    if found.config_dir:
        return _drop_in_path(tree, found.config_dir, said)
    if found.config:
        where = found.config
        edits.edit(
            where,
            f"kubelet reads {key} here",
            lambda text: yaml_edit.set_key(text, key, target.endpoint, where),
        )
        return None
    raise InstallRefused(
        f"kubelet is started with neither --config nor --config-dir nor --{flag}",
        where=found.unit,
        remedy="give it a configuration file, or name the one it reads with --kubelet-config",
    )


def _edit_flag(
    edits: FileEdits, path: str, regions: list[flag_edit.Region], flag: str, target: Target
) -> None:
    edits.edit(
        path,
        f"--{flag} on the command line beats every configuration file",
        lambda text: flag_edit.set_flag(decode(text, path), regions, flag, target.endpoint, path),
    )


def _drop_in_path(tree: Tree, directory: str, said: kubelet.Said) -> str:
    """A name that kubelet reads after the file that decides now."""
    if tree.names(directory) is None:
        raise InstallRefused(
            "is kubelet's --config-dir and does not exist, so kubelet cannot start",
            where=directory,
            remedy="create it or take --config-dir away",
        )
    rival = said.path.removeprefix(directory.rstrip("/") + "/") if said.place == "drop-in" else ""
    for name in content.KUBELET_DROP_IN_NAMES:
        if [name] > rival.split("/") or name == rival:
            return f"{directory.rstrip('/')}/{name}"
    raise InstallRefused(
        f"no name of ours sorts behind {rival}, which sets kubelet's endpoint",
        where=directory,
        remedy="rename that file",
    )


def _instance_config(edits: FileEdits, tree: Tree, found: Kubelet, target: Target) -> None:
    """kubeadm's per-node file: not read by kubelet, but patched into config.yaml at an upgrade."""
    path = kubelet.INSTANCE_CONFIG
    text = tree.read(path)
    if not found.kubeadm or text is None or not yaml_edit.get_key(text, RUNTIME_KEY, path):
        return
    edits.edit(
        path,
        "kubeadm patches config.yaml with it at each upgrade",
        lambda now: yaml_edit.set_key(now, RUNTIME_KEY, target.endpoint, path),
    )


def _prove(after: Overlay, found: Kubelet, target: Target) -> None:
    """Reads the changed files as kubelet would.

    Raises:
        InstallRefused: kubelet would still take another socket.
    """
    # The edits moved text, so positions are looked up anew; what the user named stays.
    again = kubelet.find(after, [p for p in (found.config, found.config_dir) if p])
    for said, wanted in (
        (kubelet.runtime_endpoint(after, again), True),
        (kubelet.image_endpoint(after, again), target.image),
    ):
        if wanted and not same_socket(said.value, target.endpoint):
            raise InstallRefused(
                f"kubelet would still take {said.value} from its {said.place}",
                where=said.path or found.unit,
                remedy="set the endpoint there by hand",
            )
