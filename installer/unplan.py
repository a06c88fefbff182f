# SPDX-License-Identifier: Apache-2.0
"""Decides what uninstall does: every file back to what it was, without losing others' changes."""

from __future__ import annotations

from dataclasses import dataclass

from shim.installer import content
from shim.installer.kubelet_plan import undo
from shim.installer.manifest import AnnotationRecord, FileRecord, Manifest, digest
from shim.installer.plan import annotate_command
from shim.installer.steps import (
    Annotate,
    Live,
    Remove,
    Restore,
    Run,
    SetAside,
    SetSysctl,
    Step,
    Write,
)
from shim.installer.tree import Tree, same_socket

KEPT_SUFFIX = ".podferry-kept"


@dataclass(frozen=True)
class Unplan:
    """What will be done.

    Attributes:
        kubelet: steps that point kubelet back; taken first.
        service: steps that stop the service and remove it; only when no kubelet needs it.
        waits_for: the command that must be run before ``service`` may be, "" if nothing is missing.
        notes: what the user should know.
    """

    kubelet: tuple[Step, ...]
    service: tuple[Step, ...]
    waits_for: str
    notes: tuple[str, ...]


def plan_uninstall(
    tree: Tree,
    backups: dict[str, bytes],
    manifest: Manifest,
    live: Live | None,
    *,
    restart_kubelet: bool,
) -> Unplan:
    """Decides the steps.

    Args:
        tree: the node's files.
        backups: the back-ups by digest.
        manifest: what install left.
        live: the running node, None for a root elsewhere.
        restart_kubelet: whether kubelet may be restarted.
    """
    notes: list[str] = []
    kubelet: list[Step] = []
    service: list[Step] = []
    for record in manifest.files:
        step = _file_step(tree, backups, record, notes)
        if step is not None:
            (kubelet if record.role == "kubelet" else service).append(step)
    if any(getattr(step, "role", "") == "containerd" for step in service):
        notes.append("containerd reads its former configuration at its next restart")
    if live and any("/systemd/" in getattr(step, "path", "") for step in kubelet):
        kubelet.append(Run(("systemctl", "daemon-reload"), "systemd reads kubelet's units"))
    kubelet += _annotation(manifest, live, notes)
    pointed_back = any(isinstance(s, Write | Restore | Remove | SetAside) for s in kubelet)
    is_stale = live is not None and (
        (pointed_back and live.kubelet_active)
        or (
            manifest.state == "uninstalling"
            and live.kubelet_is_older_than(manifest.kubelet_changed)
        )
    )
    waits_for = ""
    restart = ("systemctl", "restart", manifest.kubelet_unit)
    if is_stale and restart_kubelet:
        kubelet.append(Run(restart, "kubelet takes its former endpoint"))
    elif is_stale:
        waits_for = " ".join(restart)
    if live:
        if live.service_active:
            stop = Run(("systemctl", "stop", content.UNIT_NAME), "nobody needs it any more")
            clean = ("systemctl", "clean", "--what=runtime", content.UNIT_NAME)
            # Preserved over restarts on purpose, so only we can take it away.
            service[:0] = [stop, Run(clean, "its directory in /run goes")]
        service.append(Run(("systemctl", "daemon-reload"), "systemd forgets the units"))
        service += _sysctls(manifest, live, notes)
    return Unplan(tuple(kubelet), tuple(service), waits_for, tuple(notes))


def _file_step(
    tree: Tree, backups: dict[str, bytes], record: FileRecord, notes: list[str]
) -> Step | None:
    path = record.path
    if record.link_target:
        is_ours = tree.resolve(path) == tree.resolve(record.link_target) != path
        return Remove(path, None, record.role, "our symbolic link") if is_ours else None
    now = tree.read(path)
    if record.original is None:
        return _own_file_step(record, now, notes)
    if now is None:
        notes.append(f"{path} was removed by somebody else and stays so")
        return None
    if digest(now) == record.original.sha256:
        return None
    before = backups.get(record.original.sha256)
    if digest(now) == record.written and before is not None:
        return Restore(path, before, now, record.role, "as it was before podferry")
    undone = undo(now, record, path)
    if undone == now:
        notes.append(f"{path} was changed by somebody else, holds nothing of ours and stays so")
        return None
    notes.append(f"{path} was changed by somebody else: only podferry's own value is taken out")
    return Write(path, undone, record.role, "our value is taken out", now, None)


def _own_file_step(record: FileRecord, now: bytes | None, notes: list[str]) -> Step | None:
    path = record.path
    if now is None:
        return None
    if digest(now) == record.written:
        return Remove(path, now, record.role, "was not there before podferry")
    if record.role == "settings":
        notes.append(f"{path} was edited and is kept")
        return None
    notes.append(f"{path} was edited and is renamed, so that nothing reads it")
    return SetAside(path, path + KEPT_SUFFIX, record.role, "somebody edited it")


def _annotation(manifest: Manifest, live: Live | None, notes: list[str]) -> list[Step]:
    record = manifest.annotation
    if record is None:
        return []
    command = annotate_command(("kubectl",), record.node, record.former)
    if live is None or not live.kubectl:
        notes.append(f"the Node object still names our socket; run: {' '.join(command)}")
        return []
    if not same_socket(live.annotation, record.value):
        return []
    back = AnnotationRecord(record.node, record.value, record.former)
    return [Annotate(back, annotate_command(live.kubectl, record.node, record.former))]


def _sysctls(manifest: Manifest, live: Live, notes: list[str]) -> list[Step]:
    steps: list[Step] = []
    for record in manifest.sysctls:
        if live.sysctls.get(record.key) == record.value:
            steps.append(SetSysctl(record, record.former))
        elif live.sysctls.get(record.key) != record.former:
            notes.append(f"{record.key} was changed by somebody else and stays so")
    return steps
