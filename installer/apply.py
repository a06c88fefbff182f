# SPDX-License-Identifier: Apache-2.0
"""Takes the steps of a plan: back-ups and intent first, then each step, then the mark done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from shim.installer import manifest as journal
from shim.installer.disk import Disk
from shim.installer.manifest import FileRecord, Manifest, Moment, Original, digest
from shim.installer.plan import Plan
from shim.installer.steps import (
    Annotate,
    AwaitSocket,
    Link,
    Remove,
    Restore,
    Run,
    SetAside,
    SetSysctl,
    Step,
    Write,
)
from shim.installer.unplan import Unplan

replace = msgspec.structs.replace


class Machine(Protocol):
    """What can be done to a running node beside its files."""

    def run(self, arguments: Sequence[str]) -> None:
        """Runs a command and waits for its end."""

    def set_sysctl(self, key: str, value: str) -> None:
        """Sets a running kernel value."""

    def await_socket(self, path: str) -> None:
        """Waits until a CRI socket answers."""

    def annotate(self, arguments: Sequence[str]) -> bool:
        """Runs kubectl; returns whether it worked."""

    def moment(self) -> Moment | None:
        """Now; None for a root elsewhere."""


def install(
    plan: Plan, before: Manifest | None, disk: Disk, machine: Machine, say: Callable[[str], None]
) -> bool:
    """Takes an install plan.

    Args:
        plan: what to do.
        before: the manifest the plan was made from.
        disk: the node's files.
        machine: the rest of the node.
        say: told each step before it is taken, and each command that is left to the user.

    Returns:
        Whether anything was changed.
    """
    steps = plan.steps
    if not steps and before is not None and before.state == "installed":
        return False
    disk.check_writable([s.path for s in steps if isinstance(s, Write | Link)])
    intent = _with_files(plan, before, disk)
    points = any(isinstance(s, Write) and s.role == "kubelet" for s in steps)
    if points:
        intent = replace(intent, kubelet_changed=machine.moment())
    for step in steps:
        if isinstance(step, Write) and step.base is not None:
            disk.save_backup(step.base)
    _write_manifest(disk, intent)
    disk.sweep(record.path for record in intent.files)
    changed = intent.kubelet_changed
    for step in steps:
        _take(step, disk, machine, say)
        if isinstance(step, Write) and step.role == "kubelet":
            changed = machine.moment()
    _write_manifest(disk, replace(intent, state="installed", kubelet_changed=changed))
    return True


def uninstall(
    plan: Unplan, manifest: Manifest, disk: Disk, machine: Machine, say: Callable[[str], None]
) -> bool:
    """Takes an uninstall plan.

    Returns:
        Whether it is finished; if not, ``plan.waits_for`` must be run and uninstall again.
    """
    _write_manifest(disk, replace(manifest, state="uninstalling"))
    for step in plan.kubelet:
        _take(step, disk, machine, say)
    if plan.waits_for:
        # A later run compares this moment with kubelet's start to know that it was restarted.
        if any(isinstance(s, Write | Restore | Remove | SetAside) for s in plan.kubelet):
            manifest = replace(manifest, kubelet_changed=machine.moment())
        _write_manifest(disk, replace(manifest, state="uninstalling"))
        return False
    for step in plan.service:
        _take(step, disk, machine, say)
    disk.sweep(record.path for record in manifest.files)
    disk.remove_dirs(manifest.dirs)
    disk.forget()
    return True


def _with_files(plan: Plan, before: Manifest | None, disk: Disk) -> Manifest:
    """The intent with a record of each file that will be written."""
    records = {record.path: record for record in before.files} if before else {}
    paths = []
    for step in plan.steps:
        if isinstance(step, Link):
            records[step.path] = FileRecord(step.path, step.role, link_target=step.target)
            paths.append(step.path)
        elif isinstance(step, Write):
            original = _original(step, records.get(step.path), disk)
            records[step.path] = FileRecord(
                step.path, step.role, original, digest(step.content), edits=step.edits
            )
            paths.append(step.path)
    dirs = [*(before.dirs if before else ()), *disk.missing_dirs(paths)]
    return replace(
        plan.intent, files=tuple(records.values()), dirs=tuple(sorted(dict.fromkeys(dirs)))
    )


def _original(step: Write, known: FileRecord | None, disk: Disk) -> Original | None:
    if step.base is None:
        return None
    if known is not None and known.original and known.original.sha256 == digest(step.base):
        return known.original  # the time in it is older and truer than the file's own now
    return disk.original(step.path, step.base)


def _write_manifest(disk: Disk, manifest: Manifest) -> None:
    content = journal.encode(manifest)
    if disk.tree.read(journal.PATH) != content:
        disk.write(journal.PATH, content, mode=0o600)


def _take(step: Step, disk: Disk, machine: Machine, say: Callable[[str], None]) -> None:
    match step:
        case Write():
            say(f"write {step.path} ({step.why})")
            disk.write(step.path, step.content, mode=step.mode)
        case Link():
            say(f"link {step.path} ({step.why})")
            disk.link(step.path, step.target)
        case Restore():
            say(f"restore {step.path}")
            _restore(step, disk)
        case Remove():
            say(f"remove {step.path}")
            disk.remove(step.path)
        case SetAside():
            say(f"rename {step.path} to {step.to}")
            disk.rename(step.path, step.to)
        case SetSysctl():
            say(f"set {step.record.key} = {step.value}")
            machine.set_sysctl(step.record.key, step.value)
        case Run():
            say(f"run {' '.join(step.arguments)} ({step.why})")
            machine.run(step.arguments)
        case AwaitSocket():
            say(f"wait until {step.path} answers")
            machine.await_socket(step.path)
        case Annotate():
            say(f"annotate node {step.record.node}")
            if not machine.annotate(step.arguments):
                say(f"that failed; run it yourself: {' '.join(step.arguments)}")


def _restore(step: Restore, disk: Disk) -> None:
    manifest = journal.read(disk.tree)
    record = manifest.file(step.path) if manifest else None
    disk.write(step.path, step.content, original=record.original if record else None)
