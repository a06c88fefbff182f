# SPDX-License-Identifier: Apache-2.0
"""Says what is installed on a node, for `podferry status`; reads only and never raises."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from shim.errors import PodferryError
from shim.installer import content, kubelet, manifest
from shim.installer.machine import ThisNode
from shim.installer.manifest import BACKUP_DIR, Manifest
from shim.installer.steps import Live
from shim.installer.tree import RootTree, same_socket


@dataclass(frozen=True)
class UnitState:
    """A unit file of ours.

    Attributes:
        path: the file on the node.
        is_present: whether it is there.
        is_enabled: whether systemd starts it at boot; for a drop-in the same as being present.
    """

    path: str
    is_present: bool
    is_enabled: bool


@dataclass(frozen=True)
class InstallState:
    """What `podferry status` shows of the installation.

    Attributes:
        version: the version that installed, None if nothing is installed.
        progress: "installed", "installing", "uninstalling" (the latter two: run it again) or "".
        units: our unit files.
        endpoint: the CRI endpoint kubelet takes at its next start, None if it cannot be told.
        endpoint_place: "flag", "drop-in", "config" or "default".
        endpoint_path: the file that says so, "" for the default.
        points_at_us: whether that is our socket.
        former_endpoint: what kubelet used before, None if nothing is installed.
        backups: files with a back-up.
        backup_dir: where the back-ups are.
        kubelet_unit: the unit that runs kubelet, "" if unknown.
        restart_pending: whether the running kubelet has not seen the last change of its files.
        problems: what could not be read, in words.
    """

    version: str | None
    progress: str
    units: tuple[UnitState, ...]
    endpoint: str | None
    endpoint_place: str
    endpoint_path: str
    points_at_us: bool
    former_endpoint: str | None
    backups: tuple[str, ...]
    backup_dir: str
    kubelet_unit: str
    restart_pending: bool
    problems: tuple[str, ...]


def describe(root: Path) -> InstallState:
    """Looks at a node's files, and at its kubelet process if the root is the running one."""
    tree = RootTree(root.resolve())
    problems: list[str] = []
    installed: Manifest | None = None
    try:
        installed = manifest.read(tree)
    except (PodferryError, OSError) as error:
        problems.append(str(error))
    said, unit = kubelet.Said(None, "", ""), ""
    try:
        found = kubelet.find(tree, installed.kubelet_configs if installed else ())
        unit = found.unit
        said = kubelet.runtime_endpoint(tree, found)
    except (PodferryError, OSError) as error:
        problems.append(str(error))
    unit = installed.kubelet_unit if installed else unit
    units: tuple[UnitState, ...] = ()
    try:
        units = _units(tree, unit)
    except (PodferryError, OSError) as error:
        problems.append(str(error))
    return InstallState(
        version=installed.version if installed else None,
        progress=installed.state if installed else "",
        units=units,
        endpoint=said.value,
        endpoint_place=said.place,
        endpoint_path=said.path,
        points_at_us=installed is not None and same_socket(said.value, installed.endpoint),
        former_endpoint=installed.former_runtime if installed else None,
        backups=tuple(f.path for f in installed.files if f.original) if installed else (),
        backup_dir=BACKUP_DIR,
        kubelet_unit=unit,
        restart_pending=_is_restart_pending(tree, installed, problems),
        problems=tuple(problems),
    )


def _units(tree: RootTree, kubelet_unit: str) -> tuple[UnitState, ...]:
    is_present = tree.read(content.UNIT) is not None
    is_enabled = tree.resolve(content.WANTED_LINK) != content.WANTED_LINK and is_present
    units = [UnitState(content.UNIT, is_present, is_enabled)]
    if kubelet_unit:
        path = f"/etc/systemd/system/{kubelet_unit}.d/{content.ORDER_NAME}"
        has_drop_in = tree.read(path) is not None
        units.append(UnitState(path, has_drop_in, has_drop_in))
    return tuple(units)


def _is_restart_pending(tree: RootTree, installed: Manifest | None, problems: list[str]) -> bool:
    if installed is None or tree.root != Path("/") or not Path("/run/systemd/system").is_dir():
        return False
    try:
        node = ThisNode()
        started = node.started(installed.kubelet_unit)
        live = Live(node.moment(), kubelet_active=started is not None, kubelet_started=started)
        return live.kubelet_is_older_than(installed.kubelet_changed)
    except (PodferryError, OSError) as error:
        problems.append(str(error))
        return False
