# SPDX-License-Identifier: Apache-2.0
"""One run of install or uninstall: looks at the node, makes the plan, and takes it if asked."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from shim.errors import InstallRefused, NotFound, PodferryError
from shim.installer import apply, content, facts, kubelet, manifest, plan, preflight, unplan
from shim.installer.disk import Disk
from shim.installer.facts import Facts, Former, Wish
from shim.installer.machine import Elsewhere, ThisNode
from shim.installer.manifest import Manifest
from shim.installer.plan import Plan
from shim.installer.steps import Live
from shim.installer.tree import RootTree, same_socket
from shim.installer.unplan import Unplan
from shim.settings import Settings, load


@dataclass(frozen=True)
class Node:
    """The node to work on.

    Attributes:
        disk: its files.
        machine: the rest of it; None of it can be asked or done for a root elsewhere.
    """

    disk: Disk
    machine: ThisNode | Elsewhere

    @staticmethod
    def at(root: Path) -> Node:
        """The node whose root directory this is; "/" is the running one."""
        root = root.resolve()
        return Node(Disk(root), ThisNode() if root == Path("/") else Elsewhere())


@dataclass(frozen=True)
class Prepared:
    """A plan and what it was made from."""

    plan: Plan
    before: Manifest | None


def prepare_install(node: Node, wish: Wish) -> Prepared:
    """Looks at the node and plans.

    Raises:
        InstallRefused: it must not be installed on, with the reason.
        InvalidSettings: its settings cannot be read.
    """
    tree = node.disk.tree
    before = manifest.read(tree)
    wish = _remembered(wish, before)
    if tree.read(wish.command) is None:
        raise InstallRefused(
            "is not there on the node, so systemd could not start it",
            where=wish.command,
            remedy="install podferry on the node first, or name it with --command",
        )
    found = kubelet.find(tree, wish.kubelet_configs)
    settings, are_set = _settings(tree, wish.settings_path)
    ours = f"unix://{settings.cri.listen}"
    former = facts.former_endpoints(tree, found, ours, before)
    if same_socket(former.runtime, ours):
        # Nobody remembers what kubelet used before us (the manifest was lost): our settings know.
        former = Former(f"unix://{settings.cri.runtime}", former.image)
    live = _look(node, found, former.runtime)
    runtime = preflight.former_socket(former, live)
    if not are_set:
        settings = msgspec.structs.replace(
            settings, cri=msgspec.structs.replace(settings.cri, runtime=runtime)
        )
    preflight.check(settings, runtime)
    known = Facts(tree, settings, wish, found, former, before, live)
    return Prepared(plan.plan_install(known), before)


def install(node: Node, wish: Wish, say: Callable[[str], None]) -> tuple[Prepared, bool]:
    """Plans and installs; returns the plan taken and whether anything was changed."""
    with node.disk.locked(), _told():
        prepared = prepare_install(node, wish)
        changed = apply.install(prepared.plan, prepared.before, node.disk, node.machine, say)
    return prepared, changed


def prepare_uninstall(node: Node, *, restart_kubelet: bool) -> tuple[Unplan, Manifest]:
    """Looks at the node and plans its way back.

    Raises:
        NotFound: nothing is installed there.
        InstallRefused: the manifest cannot be used.
    """
    tree = node.disk.tree
    before = manifest.read(tree)
    if before is None:
        raise NotFound("podferry is not installed here", where=manifest.PATH)
    live = None
    if isinstance(node.machine, ThisNode):
        live = node.machine.look(tree, _kubelet_of(before, tree), before.former_runtime)
    steps = unplan.plan_uninstall(
        tree, node.disk.backups(), before, live, restart_kubelet=restart_kubelet
    )
    return steps, before


def uninstall(
    node: Node, say: Callable[[str], None], *, restart_kubelet: bool
) -> tuple[Unplan, bool]:
    """Plans and uninstalls; returns the plan and whether it is finished."""
    with node.disk.locked(), _told():
        steps, before = prepare_uninstall(node, restart_kubelet=restart_kubelet)
        return steps, apply.uninstall(steps, before, node.disk, node.machine, say)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Turns what the disk refuses into words; the journal knows how far we came."""
    try:
        yield
    except OSError as error:
        raise PodferryError(
            f"{error.strerror or error}",
            where=str(error.filename or ""),
            remedy="mend that and run the same command again, it goes on where it stopped",
        ) from error


def _remembered(wish: Wish, before: Manifest | None) -> Wish:
    """The wish with what an earlier install was told and this one was not."""
    configs = wish.kubelet_configs or (before.kubelet_configs if before else ())
    path = wish.settings_path or (before.settings_path if before else content.SETTINGS)
    return dataclasses.replace(wish, kubelet_configs=configs, settings_path=path)


def _kubelet_of(before: Manifest, tree: RootTree) -> kubelet.Kubelet:
    """The kubelet we installed for; its files may be gone or broken by now."""
    try:
        return kubelet.find(tree)
    except InstallRefused:
        return kubelet.Kubelet(before.kubelet_unit, "kubelet", (), None, None, {}, False)


def _look(node: Node, found: kubelet.Kubelet, runtime: str) -> Live | None:
    if isinstance(node.machine, ThisNode):
        return node.machine.look(node.disk.tree, found, runtime)
    return None


def _settings(tree: RootTree, path: str) -> tuple[Settings, bool]:
    """The node's settings, and whether there is a file that the user or an install wrote."""
    return load(tree.on_disk(tree.resolve(path))), tree.read(path) is not None
