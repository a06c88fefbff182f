# SPDX-License-Identifier: Apache-2.0
"""Reads the anatomy of a running container from its bundle, runc's state and /proc.

Nothing is assumed of what the runtime makes: mounts come from mountinfo, namespaces and pipes from
what the processes have, because config.json does not know what changed since.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shim.core import mounts
from shim.core.launch import Anatomy, Stdio
from shim.errors import InvalidMessage, NotFound

NAMESPACE = "k8s.io"
_PIPE = re.compile(r"pipe:\[[0-9]+\]\Z")
_ID = re.compile(r"[A-Za-z0-9_.-]{1,256}\Z")


@dataclass(frozen=True, slots=True)
class Places:
    """Where containerd and runc keep what they know of containers.

    Attributes:
        tasks: containerd's directory of bundles.
        states: runc's root.
    """

    tasks: Path = Path("/run/containerd/io.containerd.runtime.v2.task") / NAMESPACE
    states: Path = Path("/run/containerd/runc") / NAMESPACE

    def config(self, container_id: str) -> Path:
        """The bundle's config.json."""
        return self.tasks / _checked(container_id) / "config.json"

    def state(self, container_id: str) -> Path:
        """runc's state.json."""
        return self.states / _checked(container_id) / "state.json"


def _checked(container_id: str) -> str:
    if not _ID.match(container_id) or container_id in (".", ".."):
        raise InvalidMessage(f"no container id: {container_id!r}")
    return container_id


def read(container_id: str, places: Places | None = None) -> Anatomy:
    """Reads a running container.

    Raises:
        NotFound: there is no such container, or it does not run.
        InvalidMessage: a file is not what it should be.
    """
    places = places or Places()
    config = _json(places.config(container_id), container_id)
    state = _json(places.state(container_id), container_id)
    try:
        init_pid = int(state["init_process_pid"])
        started = int(state["init_process_start"])
        rootfs = str(state["config"]["rootfs"])
        cgroups = {str(key): str(path) for key, path in state["cgroup_paths"].items()}
        given = [str(one) for one in state.get("external_descriptors") or []]
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidMessage(
            f"{error!r} is missing or wrong", where=str(places.state(container_id))
        ) from error
    if _start_ticks(init_pid) != started:
        raise NotFound(
            f"its process {init_pid} has ended", where=f"container {container_id}"
        )  # fmt: skip
    tasks, strangers = _tasks(init_pid)
    mount_table = mounts.parse(_proc(init_pid, "mountinfo", container_id))
    return Anatomy(
        container_id=container_id,
        init_pid=init_pid,
        rootfs=rootfs,
        mounts=mount_table,
        stdio=_stdio(tasks, given),
        joined=_joined(config, init_pid),
        system_v=_has_system_v(tasks),
        own_cgroup_namespace=_has_own(config, "cgroup"),
        cgroup_paths=cgroups,
        terminal=bool((config.get("process") or {}).get("terminal")),
        tasks=tasks,
        strangers=strangers,
        lsm_profile=_lsm_profile(init_pid),
        network_inode=Path(f"/proc/{init_pid}/ns/net").stat().st_ino,
    )


def parent_of(pid: int) -> int:
    """A process's parent; its own mount namespace is the one that CRIU will be started in."""
    return int(_stat_fields(pid)[1])


def _json(path: Path, container_id: str) -> dict[str, Any]:
    try:
        parsed = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise NotFound("no such container", where=f"container {container_id}") from error
    except ValueError as error:
        raise InvalidMessage(f"no JSON: {error}", where=str(path)) from error
    if not isinstance(parsed, dict):
        raise InvalidMessage("no JSON object", where=str(path))
    return parsed


def _proc(pid: int, name: str, container_id: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text()
    except OSError as error:
        raise NotFound(
            f"its process {pid} has ended", where=f"container {container_id}"
        ) from error  # fmt: skip


def _stat_fields(pid: int) -> list[str]:
    """Fields of /proc/PID/stat behind the name, which may hold spaces: state is the first."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _start_ticks(pid: int) -> int:
    try:
        return int(_stat_fields(pid)[19])
    except OSError:
        return -1


def _tasks(init_pid: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The init and its descendants; and others in its pid namespace, such as exec sessions."""
    import psutil  # here, so that a service starts fast; it loads it once it serves

    try:
        own = [init_pid, *(one.pid for one in psutil.Process(init_pid).children(recursive=True))]
        namespace = _link(f"/proc/{init_pid}/ns/pid")
    except (psutil.NoSuchProcess, OSError):
        return (), ()
    inside = set(own)
    strangers = []
    for pid in psutil.pids():
        if pid not in inside:
            try:
                if _link(f"/proc/{pid}/ns/pid") == namespace:
                    strangers.append(pid)
            except OSError:
                continue  # it has ended, or is a kernel thread
    return tuple(own), tuple(strangers)


def _stdio(tasks: tuple[int, ...], given: list[str]) -> tuple[Stdio, ...]:
    """Those of the pipes given at the start that a process still has open, each once."""
    wanted = {key: number for number, key in enumerate(given) if _PIPE.match(key)}
    found: dict[str, Stdio] = {}
    for pid in tasks:
        for path in _descriptors(pid):
            try:
                key = _link(path)
            except OSError:
                continue
            if key in wanted:
                found.setdefault(key, Stdio(wanted[key], key, str(path)))
        if len(found) == len(wanted):
            break
    return tuple(sorted(found.values(), key=lambda one: one.number))


def _has_system_v(tasks: tuple[int, ...]) -> bool:
    for pid in tasks:
        try:
            with Path(f"/proc/{pid}/maps").open() as lines:
                if any(" /SYSV" in line for line in lines):
                    return True
        except OSError:
            continue
    return False


def _descriptors(pid: int) -> list[Path]:
    try:
        return list(Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return []


def _link(path: Path | str) -> str:
    return str(Path(path).readlink())


def _namespaces(config: dict[str, Any]) -> list[dict[str, Any]]:
    listed = (config.get("linux") or {}).get("namespaces") or []
    return [one for one in listed if isinstance(one, dict)]


def _joined(config: dict[str, Any], init_pid: int) -> dict[str, str]:
    """Files of the namespaces that the bundle names by path, and of the node's that it lets be.

    Both belong to somebody who outlives the container. The path is the sandbox's, so that it is
    still there while the container sleeps.
    """
    kinds = {"network": "net", "ipc": "ipc", "uts": "uts"}
    listed = {str(one.get("type")): str(one.get("path") or "") for one in _namespaces(config)}
    joined = {}
    for oci, kind in kinds.items():
        path = listed.get(oci, f"/proc/1/ns/{kind}")
        own = Path(f"/proc/{init_pid}/ns/{kind}")
        try:
            if path and Path(path).stat().st_ino == own.stat().st_ino:
                joined[kind] = path
        except OSError:
            continue  # the sandbox is gone: nothing is shared with it any more
    return joined


def _has_own(config: dict[str, Any], oci: str) -> bool:
    return any(one.get("type") == oci and not one.get("path") for one in _namespaces(config))


def _lsm_profile(pid: int) -> str:
    """The AppArmor profile of a process; "" where there is none or no such module."""
    try:
        label = Path(f"/proc/{pid}/attr/apparmor/current").read_text().strip("\0\n ")
    except OSError:
        return ""
    name = label.rpartition(" (")[0] or label
    return "" if name == "unconfined" else name
