# SPDX-License-Identifier: Apache-2.0
"""Owns the name of this run, which everything made for it carries, and the removal by that name."""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import time
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any

import docker
from docker.errors import APIError, NotFound

LABEL = "podferry.testbed"
CGROUP_ROOT = Path("/sys/fs/cgroup")
CGROUP_NAME = "podferry-testbed"
CGROUP_DEADLINE_S = 10.0
REMOVAL_ATTEMPTS = 5
REMOVAL_PAUSE_S = 3.0


@functools.cache
def run_id() -> str:
    """``<pid>-<that process's start in clock ticks>-<random>``: tells later who is dead."""
    return f"{os.getpid()}-{_started(os.getpid())}-{secrets.token_hex(3)}"


def labels() -> dict[str, str]:
    """What every container, network and volume of this run carries."""
    return {LABEL: run_id()}


def is_alive(run: str) -> bool:
    """Whether the process that named that run still lives."""
    pid, _, rest = run.partition("-")
    started = rest.partition("-")[0]
    return pid.isdigit() and _started(int(pid)) == started


def short() -> str:
    """The part of this run's id that names of containers carry; unique among living runs."""
    pid, _, token = run_id().split("-")
    return f"{pid}-{token}"


def remove_leftovers(client: docker.DockerClient, *, ours: bool) -> list[str]:
    """Removes what dead runs left and, if ``ours``, what this run has made; names it."""
    removed = []
    for kind, collection, listing in (
        ("container", client.containers, {"all": True}),
        ("network", client.networks, {}),
        ("volume", client.volumes, {}),
    ):
        for thing in collection.list(filters={"label": LABEL}, **listing):
            run = _label_of(thing)
            if is_alive(run) and not (ours and run == run_id()):
                continue
            options: dict[str, Any] = {"container": {"force": True, "v": True}, "network": {}}.get(
                kind, {"force": True}
            )
            if kind == "container":
                thaw_cgroups(thing.name)
            try:
                patiently(functools.partial(thing.remove, **options))
                removed.append(f"{kind} {thing.name}")
            except NotFound:
                pass
            except APIError as error:
                # Somebody else may be removing it at this moment, or the nodes on a wire.
                if error.status_code not in (HTTPStatus.CONFLICT, HTTPStatus.FORBIDDEN):
                    raise
    # In this order: a container is there before its cgroups are.
    named = _cgroup_names()
    living = {container.name for container in client.containers.list(all=True)}
    removed += [f"cgroup {name}" for name in sorted(named - living) if remove_cgroups(name)]
    return removed


def patiently(remove: Callable[[], object]) -> None:
    """Removes something of the engine, again if the engine gives up.

    On a crowded machine it stops waiting for the end of a container's processes ("did not receive
    an exit event") while the kernel is still ending them.

    Raises:
        APIError: it gives up every time, or refuses.
    """
    for attempt in range(REMOVAL_ATTEMPTS):
        try:
            remove()
            return
        except APIError as error:
            if not error.is_server_error() or attempt == REMOVAL_ATTEMPTS - 1:
                raise
            time.sleep(REMOVAL_PAUSE_S)


def thaw_cgroups(node: str) -> None:
    """Lets go whatever stands still on a node: what is frozen (cgroup v1) cannot be killed."""
    for parent in _cgroup_parents():
        for path in (parent / node).glob("**/freezer.state"):
            with contextlib.suppress(OSError):
                path.write_text("THAWED")


def remove_cgroups(node: str) -> bool:
    """Removes a node's subtree from every hierarchy of the host; True if there was one."""
    found = False
    for parent in _cgroup_parents():
        top = parent / node
        deadline = time.monotonic() + CGROUP_DEADLINE_S
        while top.exists():
            found = True
            # Depth first; the kernel's own files go with their directory. A dying process may
            # hold its cgroup for some more milliseconds.
            for directory in [*sorted(top.glob("**/"), reverse=True)]:
                _rmdir(directory)
            if time.monotonic() > deadline:
                break
            if top.exists():
                time.sleep(0.02)
        if parent.exists() and not any(child.is_dir() for child in parent.iterdir()):
            _rmdir(parent)
    return found


def _rmdir(directory: Path) -> None:
    with contextlib.suppress(OSError):
        directory.rmdir()


def _cgroup_parents() -> list[Path]:
    hierarchies = [CGROUP_ROOT, *CGROUP_ROOT.iterdir()] if CGROUP_ROOT.exists() else []
    parents = [hierarchy / CGROUP_NAME for hierarchy in hierarchies if not hierarchy.is_symlink()]
    return [parent for parent in parents if parent.is_dir()]


def _cgroup_names() -> set[str]:
    return {
        child.name for parent in _cgroup_parents() for child in parent.iterdir() if child.is_dir()
    }


def _label_of(thing: Any) -> str:
    if hasattr(thing, "labels"):
        return str(thing.labels.get(LABEL, ""))
    return str((thing.attrs.get("Labels") or {}).get(LABEL, ""))


def _started(pid: int) -> str:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    # The command's name, in brackets, may hold spaces; what counts comes after the last bracket.
    return stat.rpartition(")")[2].split()[19]
