# SPDX-License-Identifier: Apache-2.0
"""Decides what install does on a node: from its files, the settings and what is known live."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from shim.installer import content, kubelet
from shim.installer.containerd_plan import plan_containerd
from shim.installer.content import RUNTIME_UNITS
from shim.installer.kubelet import Kubelet
from shim.installer.kubelet_plan import Target, plan_kubelet
from shim.installer.manifest import (
    AnnotationRecord,
    Manifest,
    Role,
    SysctlRecord,
    digest,
)
from shim.installer.steps import (
    Annotate,
    AwaitSocket,
    Link,
    Live,
    Run,
    SetSysctl,
    Step,
    Write,
)
from shim.installer.tree import Tree, same_socket
from shim.settings import Settings

ANNOTATION = "kubeadm.alpha.kubernetes.io/cri-socket"


@dataclass(frozen=True)
class Wish:
    """What the user asked of install.

    Attributes:
        command: absolute path of ``podferry`` on the node.
        version: the version that installs.
        settings_path: the settings file on the node.
        kubelet_configs: files and directories named with --kubelet-config.
        restart_kubelet: whether kubelet may be restarted.
        containerd_runtime: the OCI runtime that containerd shall run, "" to leave containerd alone.
        restart_containerd: whether containerd may be restarted when its files were changed.
    """

    command: str
    version: str
    settings_path: str = content.SETTINGS
    kubelet_configs: tuple[str, ...] = ()
    restart_kubelet: bool = False
    containerd_runtime: str = ""
    restart_containerd: bool = False


@dataclass(frozen=True)
class Former:
    """What kubelet used before podferry."""

    runtime: str
    image: str | None


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


def former_endpoints(tree: Tree, found: Kubelet, ours: str, manifest: Manifest | None) -> Former:
    """The endpoints kubelet used before us, also when it already uses ours."""
    without = ""
    runtime = kubelet.runtime_endpoint(tree, found)
    if same_socket(runtime.value, ours) and runtime.place == "drop-in":
        without = runtime.path
        runtime = kubelet.runtime_endpoint(tree, found, without=without)
    image = kubelet.image_endpoint(tree, found, without=without)
    if same_socket(runtime.value, ours) and manifest is not None:
        return Former(manifest.former_runtime, manifest.former_image)
    return Former(runtime.value or kubelet.DEFAULT_ENDPOINT, image.value)


def plan_install(
    tree: Tree,
    settings: Settings,
    wish: Wish,
    found: Kubelet,
    former: Former,
    manifest: Manifest | None,
    live: Live | None,
) -> Plan:
    """Decides the steps.

    Args:
        tree: the node's files.
        settings: the node's settings as they will be.
        wish: what the user asked.
        found: the node's kubelet.
        former: what it used before us.
        manifest: what an earlier install left, None if there was none.
        live: the running node, None for a root elsewhere.

    Raises:
        InstallRefused: the node is laid out in a way that must not be edited.
    """
    ours = f"unix://{settings.cri.listen}"
    image = former.image is not None and (
        same_socket(former.image, former.runtime) or same_socket(former.image, ours)
    )
    notes: list[str] = []
    own = _own_files(tree, settings, wish, found, manifest, notes)
    containerd = None
    if wish.containerd_runtime:
        containerd = plan_containerd(tree, wish.containerd_runtime, manifest)
    pointed = plan_kubelet(tree, found, Target(ours, image), manifest)
    sysctls = _sysctls(manifest, live)
    annotation = _annotation(found, tree, former, ours, manifest, live)
    commands_due = bool(own) or manifest is None or manifest.state != "installed"
    steps: list[Step] = [*own, *(SetSysctl(record, record.value) for record in sysctls)]
    pending: list[str] = []
    if containerd:
        steps.append(containerd)
        restart = ("systemctl", "restart", RUNTIME_UNITS.get(found.flavour, found.unit))
        if live and wish.restart_containerd:
            steps.append(Run(restart, "containerd reads its drop-in; containers live on"))
        elif live:
            pending.append(" ".join(restart))
    if live:
        steps += _start_service(settings, wish, manifest, live, commands_due, bool(pointed))
    steps += pointed
    if live and any("/systemd/" in write.path for write in pointed):
        steps.append(Run(("systemctl", "daemon-reload"), "systemd reads kubelet's changed units"))
    if annotation:
        steps.append(annotation)
    restart = ("systemctl", "restart", found.unit)
    is_stale = live is not None and (
        (bool(pointed) and live.kubelet_active)
        or live.kubelet_is_older_than(manifest.kubelet_changed if manifest else None)
    )
    if is_stale and wish.restart_kubelet:
        steps.append(Run(restart, "kubelet takes the new endpoint"))
    elif is_stale:
        pending.append(" ".join(restart))
    _more_notes(notes, found, former, pointed, image, annotation, live, ours)
    intent = _intent(manifest, wish, ours, former, found, sysctls, annotation)
    return Plan(tuple(steps), intent, tuple(notes), tuple(pending))


def _own_files(
    tree: Tree,
    settings: Settings,
    wish: Wish,
    found: Kubelet,
    manifest: Manifest | None,
    notes: list[str],
) -> list[Write | Link]:
    runtime = settings.cri.runtime
    unit = content.service_unit(wish.command, wish.settings_path, settings, found)
    drop_in = content.kubelet_unit_drop_in(found)
    files: list[tuple[str, bytes, Role, str]] = [
        (content.SYSCTL, content.sysctl_file(), "sysctl", "CRIU needs larger pipes"),
        (content.UNIT, unit, "unit", "the service"),
        (drop_in, content.kubelet_order(), "unit", "kubelet starts behind it"),
    ]
    if tree.read(wish.settings_path) is None:
        text = content.settings_file(runtime)
        files.insert(0, (wish.settings_path, text, "settings", "default settings, to be edited"))
    writes: list[Write | Link] = []
    for path, new, role, why in files:
        write = _own_file(tree, path, new, role, why, manifest, notes)
        if write is not None:
            writes.append(write)
    is_linked = tree.resolve(content.WANTED_LINK) != content.WANTED_LINK
    if not (is_linked and manifest and manifest.file(content.WANTED_LINK)):
        writes.append(Link(content.WANTED_LINK, content.UNIT, "unit", "started at boot"))
    return writes


def _own_file(
    tree: Tree,
    path: str,
    new: bytes,
    role: Role,
    why: str,
    manifest: Manifest | None,
    notes: list[str],
) -> Write | None:
    path = tree.resolve(path)
    now = tree.read(path)
    record = manifest.file(path) if manifest else None
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


def _sysctls(manifest: Manifest | None, live: Live | None) -> list[SysctlRecord]:
    if live is None:
        return []
    records = []
    for key, value in content.SYSCTLS.items():
        running = live.sysctls.get(key)
        if running is not None and int(running) < int(value):
            records.append(SysctlRecord(key, running, value))
    return records


def _start_service(
    settings: Settings,
    wish: Wish,
    manifest: Manifest | None,
    live: Live,
    commands_due: bool,
    kubelet_due: bool,
) -> list[Step]:
    steps: list[Step] = []
    if commands_due:
        steps.append(Run(("systemctl", "daemon-reload"), "systemd reads the new units"))
    if not live.service_active:
        steps.append(Run(("systemctl", "start", content.UNIT_NAME), "the service"))
    elif manifest is not None and manifest.version != wish.version:
        why = "the new version takes over without losing a call"
        steps.append(Run(("systemctl", "reload", content.UNIT_NAME), why))
    if steps or kubelet_due:
        steps.append(AwaitSocket(settings.cri.listen))
    return steps


def _annotation(
    found: Kubelet,
    tree: Tree,
    former: Former,
    ours: str,
    manifest: Manifest | None,
    live: Live | None,
) -> Annotate | None:
    if live is None or not live.kubectl or live.annotation is None:
        return None
    if same_socket(live.annotation, ours):
        return None
    record = AnnotationRecord(found.node_name(tree), live.annotation, ours)
    return Annotate(record, annotate_command(live.kubectl, record.node, ours))


def annotate_command(kubectl: tuple[str, ...], node: str, value: str) -> tuple[str, ...]:
    """The command that sets kubeadm's annotation."""
    return (*kubectl, "annotate", "node", node, "--overwrite", f"{ANNOTATION}={value}")


def _more_notes(
    notes: list[str],
    found: Kubelet,
    former: Former,
    pointed: list[Write],
    image: bool,
    annotation: Annotate | None,
    live: Live | None,
    ours: str,
) -> None:
    if former.image is not None and not image:
        notes.append(f"kubelet's image endpoint {former.image} is another program's and is kept")
    for write in pointed:
        if write.path.startswith(("/usr/", "/lib/")):
            notes.append(f"{write.path} belongs to a package; run install again after its upgrade")
    if found.kubeadm and annotation is None and live is not None and not live.kubectl and pointed:
        command = " ".join(annotate_command(("kubectl",), "NODE", ours))
        notes.append(f"if the Node object has kubeadm's annotation, also run: {command}")
    if live is None:
        notes.append("nothing was started: the node's own boot does that")


def _intent(
    manifest: Manifest | None,
    wish: Wish,
    ours: str,
    former: Former,
    found: Kubelet,
    sysctls: list[SysctlRecord],
    annotation: Annotate | None,
) -> Manifest:
    if manifest is None:
        return Manifest(
            "installing",
            wish.version,
            ours,
            former.runtime,
            former.image,
            found.unit,
            sysctls=tuple(sysctls),
            annotation=annotation.record if annotation else None,
        )
    fresh = {record.key: record for record in sysctls}
    # The first value met is the node's own, unless it was set back since (a reboot).
    kept = [r for r in manifest.sysctls if r.key not in fresh]
    return msgspec.structs.replace(
        manifest,
        state="installing",
        version=wish.version,
        endpoint=ours,
        former_runtime=former.runtime,
        former_image=former.image,
        kubelet_unit=found.unit,
        sysctls=(*kept, *fresh.values()),
        annotation=annotation.record if annotation else manifest.annotation,
    )
