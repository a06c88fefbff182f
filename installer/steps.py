# SPDX-License-Identifier: Apache-2.0
"""The vocabulary of plans: steps of install and uninstall, and what is known live."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from shim.installer.edits import Edit
from shim.installer.manifest import AnnotationRecord, Moment, Role, SysctlRecord


@dataclass(frozen=True)
class Write:
    """Replace a file's content in one rename.

    Attributes:
        path: the file, links followed.
        content: what it shall hold.
        role: what it is for.
        why: for the reader of a dry run.
        now: what it holds, None if it is absent.
        base: what it held before podferry, None if it did not exist.
        edits: the values changed, empty if the whole file is ours.
        mode: permissions if the file is new; else its own are kept.
    """

    path: str
    content: bytes
    role: Role
    why: str
    now: bytes | None
    base: bytes | None
    edits: tuple[Edit, ...] = ()
    mode: int = 0o644


@dataclass(frozen=True)
class Link:
    """Make a symbolic link."""

    path: str
    target: str
    role: Role
    why: str


@dataclass(frozen=True)
class Restore:
    """Put a file back from its back-up, with mode, owner and time."""

    path: str
    content: bytes
    now: bytes
    role: Role
    why: str


@dataclass(frozen=True)
class Remove:
    """Remove a file or link that was not there before podferry."""

    path: str
    now: bytes | None
    role: Role
    why: str


@dataclass(frozen=True)
class SetAside:
    """Rename a file of ours that somebody edited, so that nothing reads it and nothing is lost."""

    path: str
    to: str
    role: Role
    why: str


@dataclass(frozen=True)
class SetSysctl:
    """Set a running kernel value."""

    record: SysctlRecord
    value: str


@dataclass(frozen=True)
class Run:
    """Run a command of the node."""

    arguments: tuple[str, ...]
    why: str


@dataclass(frozen=True)
class AwaitSocket:
    """Wait until our socket answers with the runtime's version."""

    path: str


@dataclass(frozen=True)
class Annotate:
    """Set kubeadm's annotation on the Node object; failing only leaves a command to be typed."""

    record: AnnotationRecord
    arguments: tuple[str, ...]


Step = Write | Link | Restore | Remove | SetAside | SetSysctl | Run | AwaitSocket | Annotate


@dataclass(frozen=True)
class Live:
    """What only a running node can tell; absent as a whole for ``--root`` elsewhere.

    Attributes:
        moment: now.
        service_active: whether podferry.service runs.
        kubelet_active: whether kubelet's unit runs.
        kubelet_started: when it started, None if it does not run.
        sysctls: running values of the keys we set.
        kubectl: how to call kubectl with rights on the Node object, empty if that is impossible.
        annotation: kubeadm's annotation, None if unknown or absent.
        runtime_name: what the former endpoint calls itself, None if it did not answer.
    """

    moment: Moment
    service_active: bool = False
    kubelet_active: bool = False
    kubelet_started: Moment | None = None
    sysctls: Mapping[str, str] = field(default_factory=dict)
    kubectl: tuple[str, ...] = ()
    annotation: str | None = None
    runtime_name: str | None = None

    def kubelet_is_older_than(self, change: Moment | None) -> bool:
        """Whether the running kubelet started before a change and so has not seen it."""
        if change is None or not self.kubelet_active or self.kubelet_started is None:
            return False
        started = self.kubelet_started
        return change.boot_id == started.boot_id and started.since_boot_s <= change.since_boot_s
