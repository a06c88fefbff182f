# SPDX-License-Identifier: Apache-2.0
"""Decides what install does on a node, from the facts: which steps, in which order."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from shim.installer import content
from shim.installer.containerd_plan import plan_containerd
from shim.installer.content import RUNTIME_UNITS
from shim.installer.facts import Facts
from shim.installer.kubelet_plan import Target, plan_kubelet
from shim.installer.manifest import AnnotationRecord, Manifest, Role, SysctlRecord, digest
from shim.installer.steps import Annotate, AwaitSocket, Link, Live, Run, SetSysctl, Step, Write
from shim.installer.tree import same_socket

ANNOTATION = "kubeadm.alpha.kubernetes.io/cri-socket"
RELOAD_UNITS = ("systemctl", "daemon-reload")


@dataclass(frozen=True)
class Plan:
    """What will be done.

    Attributes:
        steps: in the order in which they are taken.
        intent: the manifest before the files' marks are filled in by ``apply``.
        notes: what the user should know.
        pending: commands that remain for the user.
    """

    steps: tuple[Step, ...]
    intent: Manifest
    notes: tuple[str, ...] = ()
    pending: tuple[str, ...] = ()


def plan_install(facts: Facts) -> Plan:
    """Decides the steps.

    Raises:
        InstallRefused: the node is laid out in a way that must not be edited.
    """
    notes: list[str] = []
    pending: list[str] = []
    own = _own_files(facts, notes)
    sysctls = _sysctls(facts.live)
    containerd = _containerd(facts, pending)
    target = Target(facts.ours, facts.image_is_runtimes)
    pointed = plan_kubelet(facts.tree, facts.kubelet, target, facts.manifest)
    annotation = _annotation(facts)
    # Never a moment in which kubelet's socket is not there: the service comes first.
    steps: list[Step] = [*own, *(SetSysctl(record, record.value) for record in sysctls)]
    steps += containerd
    steps += _start_service(facts, is_changed=bool(own), is_needed=bool(pointed))
    steps += pointed
    if facts.live and any("/systemd/" in write.path for write in pointed):
        steps.append(Run(RELOAD_UNITS, "systemd reads kubelet's changed units"))
    steps += [annotation] if annotation else []
    steps += _restart_kubelet(facts, pending, is_pointed=bool(pointed))
    notes += _notes(facts, pointed)
    intent = _intent(facts, sysctls, annotation)
    return Plan(tuple(steps), intent, tuple(notes), tuple(pending))


def annotate_command(kubectl: tuple[str, ...], node: str, value: str) -> tuple[str, ...]:
    """The command that sets kubeadm's annotation."""
    return (*kubectl, "annotate", "node", node, "--overwrite", f"{ANNOTATION}={value}")


def _own_files(facts: Facts, notes: list[str]) -> list[Write | Link]:
    settings_path = facts.wish.settings_path
    unit = content.service_unit(facts.wish.command, settings_path, facts.settings, facts.kubelet)
    drop_in = content.kubelet_unit_drop_in(facts.kubelet)
    files: list[tuple[str, bytes, Role, str]] = [
        (content.SYSCTL, content.sysctl_file(), "sysctl", "CRIU needs larger pipes"),
        (content.UNIT, unit, "unit", "the service"),
        (drop_in, content.kubelet_order(), "unit", "kubelet starts behind it"),
    ]
    if facts.tree.read(settings_path) is None:
        text = content.settings_file(facts.settings.cri.runtime)
        files.insert(0, (settings_path, text, "settings", "default settings, to be edited"))
    writes: list[Write | Link] = []
    for path, new, role, why in files:
        write = _own_file(facts, path, new, role, why, notes)
        writes += [write] if write else []
    is_linked = facts.tree.resolve(content.WANTED_LINK) != content.WANTED_LINK
    if not (is_linked and facts.is_recorded(content.WANTED_LINK)):
        writes.append(Link(content.WANTED_LINK, content.UNIT, "unit", "started at boot"))
    return writes


def _own_file(
    facts: Facts, path: str, new: bytes, role: Role, why: str, notes: list[str]
) -> Write | None:
    path = facts.tree.resolve(path)
    now = facts.tree.read(path)
    record = facts.manifest.file(path) if facts.manifest else None
    if now == new and record is not None:
        return None
    if record is not None and now is not None and digest(now) != record.written:
        notes.append(f"{path} was edited since it was installed and is left as it is")
        return None
    ours = record is not None and record.original is None
    # The same text without a record is what a crash of an older run or a package left: it is
    # recorded as not there before, so that uninstall takes it away.
    base = None if ours or now == new else now
    return Write(path, new, role, why, now, base)


def _sysctls(live: Live | None) -> list[SysctlRecord]:
    records = []
    for key, value in content.SYSCTLS.items():
        running = live.sysctls.get(key) if live else None
        if running is not None and int(running) < int(value):
            records.append(SysctlRecord(key, running, value))
    return records


def _containerd(facts: Facts, pending: list[str]) -> list[Step]:
    binary = facts.wish.containerd_runtime
    write = plan_containerd(facts.tree, binary, facts.manifest) if binary else None
    if write is None:
        return []
    unit = RUNTIME_UNITS.get(facts.kubelet.flavour, facts.kubelet.unit)
    restart = ("systemctl", "restart", unit)
    if facts.live and facts.wish.restart_containerd:
        return [write, Run(restart, "containerd reads its drop-in; containers live on")]
    if facts.live:
        pending.append(" ".join(restart))
    return [write]


def _start_service(facts: Facts, *, is_changed: bool, is_needed: bool) -> list[Step]:
    if facts.live is None:
        return []
    steps: list[Step] = []
    if is_changed or not facts.is_finished:
        steps.append(Run(RELOAD_UNITS, "systemd reads the new units"))
    if not facts.live.service_active:
        steps.append(Run(("systemctl", "start", content.UNIT_NAME), "the service"))
    elif facts.manifest is not None and facts.manifest.version != facts.wish.version:
        why = "the new version takes over without losing a call"
        steps.append(Run(("systemctl", "reload", content.UNIT_NAME), why))
    if steps or is_needed:
        steps.append(AwaitSocket(facts.settings.cri.listen))
    return steps


def _annotation(facts: Facts) -> Annotate | None:
    live = facts.live
    if live is None or not live.kubectl or live.annotation is None:
        return None
    if same_socket(live.annotation, facts.ours):
        return None
    node = facts.kubelet.node_name(facts.tree)
    record = AnnotationRecord(node, live.annotation, facts.ours)
    return Annotate(record, annotate_command(live.kubectl, node, facts.ours))


def _restart_kubelet(facts: Facts, pending: list[str], *, is_pointed: bool) -> list[Step]:
    live = facts.live
    if live is None:
        return []
    changed = facts.manifest.kubelet_changed if facts.manifest else None
    if not (is_pointed and live.kubelet_active) and not live.kubelet_is_older_than(changed):
        return []
    restart = ("systemctl", "restart", facts.kubelet.unit)
    if facts.wish.restart_kubelet:
        return [Run(restart, "kubelet takes the new endpoint")]
    pending.append(" ".join(restart))
    return []


def _notes(facts: Facts, pointed: list[Write]) -> list[str]:
    notes = []
    if facts.former.image is not None and not facts.image_is_runtimes:
        image = facts.former.image
        notes.append(f"kubelet's image endpoint {image} is another program's and is kept")
    for write in pointed:
        if write.path.startswith(("/usr/", "/lib/")):
            notes.append(f"{write.path} belongs to a package; run install again after its upgrade")
    is_unknown = facts.live is not None and facts.live.annotation is None
    if facts.kubelet.kubeadm and is_unknown and pointed:
        command = " ".join(annotate_command(("kubectl",), "NODE", facts.ours))
        notes.append(f"if the Node object has kubeadm's annotation, also run: {command}")
    if facts.live is None:
        notes.append("nothing was started: the node's own boot does that")
    return notes


def _intent(facts: Facts, sysctls: list[SysctlRecord], annotation: Annotate | None) -> Manifest:
    before = facts.manifest
    fresh = {record.key: record for record in sysctls}
    # The first value met is the node's own, unless it was set back since (a reboot).
    kept = [r for r in before.sysctls if r.key not in fresh] if before else []
    known = before.annotation if before else None
    manifest = before or Manifest("installing", "", "", "", None, "")
    return msgspec.structs.replace(
        manifest,
        state="installing",
        version=facts.wish.version,
        endpoint=facts.ours,
        former_runtime=facts.former.runtime,
        former_image=facts.former.image,
        kubelet_unit=facts.kubelet.unit,
        kubelet_configs=facts.wish.kubelet_configs,
        settings_path=facts.wish.settings_path,
        sysctls=(*kept, *fresh.values()),
        annotation=annotation.record if annotation else known,
    )
