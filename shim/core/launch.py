# SPDX-License-Identifier: Apache-2.0
"""Composes what CRIU is asked at a dump and at a restore, as values; nothing is read or sent here.

The facts of a container come from shim/checkpoint/anatomy.py, the bytes are made by
shim/checkpoint/request.py. CRIU is started inside the network, IPC and UTS namespaces of the pod's
sandbox (`Launch.enter`): what it shares with the tasks it neither dumps nor restores. That takes
20 ms out of the freeze and 8 ms out of the wake, and the sandbox keeps these namespaces alive.
System V shared memory is the exception: CRIU refuses it where it shares the IPC namespace, so
there the namespace is dumped, and the restored tasks join it and find their segments.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from shim.core.mounts import Mount, external_for_dump, external_for_restore
from shim.errors import Refused

# Where the monitor gives CRIU the container's standard input, output and error (docs/monitor.md).
FIRST_STDIO_FD = 10
STDIO_NAMES = ("standard input", "standard output", "standard error")
# The namespaces of a sandbox that its containers join. A container that has its own is refused by
# the preflight: the clone of its mounts and its sockets would need the namespace kept alive too.
JOINED = ("net", "ipc", "uts")
GHOST_LIMIT_BYTES = 64 << 20


class Purpose(enum.StrEnum):
    """Why a container is dumped."""

    SLEEP = "sleep"  # the tasks are killed once the image is complete
    COPY = "copy"  # the tasks run on
    MOVE = "move"  # the tasks stand still: they are killed once they run elsewhere, or run on


@dataclass(frozen=True, slots=True)
class Stdio:
    """A pipe between the container and containerd's shim.

    Attributes:
        number: which it was at the container's start: 0, 1 or 2.
        key: as the kernel names it, "pipe:[4711]", and as CRIU's image does.
        opened_at: "/proc/PID/fd/N" of a process that has it open.
    """

    number: int
    key: str
    opened_at: str


@dataclass(frozen=True, slots=True)
class Anatomy:
    """What has to be known of a running container to dump and restore it.

    Attributes:
        container_id: the runtime's id.
        init_pid: the container's first process, as the host counts.
        rootfs: where the runtime has mounted its root file system.
        mounts: its mounts.
        stdio: the pipes to containerd's shim that its processes have open.
        joined: namespaces that it shares with its sandbox, kind to file; they outlive it.
        system_v: whether a process has System V shared memory attached.
        own_cgroup_namespace: whether it has one of its own.
        cgroup_paths: its cgroup in each hierarchy, controller ("" for v2) to path.
        terminal: whether it was started with a terminal.
        tasks: its processes by host pid; the init is the first.
        strangers: processes in its pid namespace that the init is no ancestor of.
        lsm_profile: the AppArmor profile or SELinux label of its init, "" for none.
        network_inode: of its network namespace.
    """

    container_id: str
    init_pid: int
    rootfs: str
    mounts: tuple[Mount, ...]
    stdio: tuple[Stdio, ...] = ()
    joined: Mapping[str, str] = field(default_factory=dict)
    system_v: bool = False
    own_cgroup_namespace: bool = False
    cgroup_paths: Mapping[str, str] = field(default_factory=dict)
    terminal: bool = False
    tasks: tuple[int, ...] = ()
    strangers: tuple[int, ...] = ()
    lsm_profile: str = ""
    network_inode: int = 0

    def cgroup(self, controller: str) -> str:
        """The path of its cgroup for a controller; the one of version 2 has all of them."""
        paths = self.cgroup_paths
        return paths[controller] if controller in paths else paths[""]


@dataclass(frozen=True, slots=True)
class Launch:
    """How CRIU is to be started and what it is asked.

    Attributes:
        kind: "DUMP" or "RESTORE", CRIU's own names.
        options: fields of CRIU's criu_opts, in Python's types.
        enter: files of namespaces to enter before CRIU is executed, in order.
    """

    kind: str
    options: Mapping[str, Any]
    enter: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Sleeper:
    """What a later restore needs to know of a container once it is gone; kept beside its images.

    Attributes:
        container_id: the runtime's id.
        mounts: as they were at the dump.
        stdio: number and key of the pipes that its processes had open.
        joined: the namespaces of its sandbox, kind to file.
        system_v: whether a process had System V shared memory attached.
        lsm_profile: of its init.
    """

    container_id: str
    mounts: tuple[Mount, ...]
    stdio: tuple[tuple[int, str], ...]
    joined: Mapping[str, str]
    system_v: bool = False
    lsm_profile: str = ""

    @classmethod
    def of(cls, anatomy: Anatomy) -> Sleeper:
        """What to keep of a container that is about to sleep."""
        return cls(
            container_id=anatomy.container_id,
            mounts=anatomy.mounts,
            stdio=tuple((one.number, one.key) for one in anatomy.stdio),
            joined=anatomy.joined,
            system_v=anatomy.system_v,
            lsm_profile=anatomy.lsm_profile,
        )


def _entered(subject: Anatomy | Sleeper) -> tuple[str, ...]:
    kinds = [kind for kind in JOINED if kind in subject.joined]
    if subject.system_v:
        kinds.remove("ipc")
    return tuple(subject.joined[kind] for kind in kinds)


def _common(images_dir: str, log_file: str) -> dict[str, Any]:
    return {
        "images_dir_fd": -1,
        "images_dir": images_dir,
        "log_file": log_file,
        # Errors and warnings. Level 4 writes 2000 lines into the freeze: 5 to 8 ms.
        "log_level": 2,
        "tcp_established": True,
        "file_locks": True,
        "ext_unix_sk": True,
        "orphan_pts_master": True,
        # CRIU's own lock drops packets, and one dropped packet costs its sender 205 ms. The hold
        # is ours.
        "network_lock": "SKIP",
        # The cgroups stay, and what CRIU restores is started inside them.
        "manage_cgroups_mode": "IGNORE",
        "notify_scripts": True,
    }


def dump(
    anatomy: Anatomy,
    images_dir: str,
    purpose: Purpose,
    *,
    lazy: bool = False,
    freezer: str = "",
    timeout_s: int = 10,
) -> Launch:
    """What CRIU is asked in order to write a container into ``images_dir``.

    Args:
        anatomy: the container.
        images_dir: an existing empty directory.
        purpose: whether the container goes on.
        lazy: leave private memory out; CRIU then waits for a page client.
        freezer: its cgroup of the freezer, if that is frozen; CRIU then thaws it once it has
            stopped the tasks itself.
        timeout_s: CRIU lets the tasks go again after so long.
    """
    options = _common(images_dir, "dump.log") | {
        "pid": anatomy.init_pid,
        "root": anatomy.rootfs,
        "external": external_for_dump(anatomy.mounts),
        "leave_running": purpose is Purpose.COPY,
        # A connection in the middle of its handshake would fail the dump; its client tries again.
        "tcp_skip_in_flight": True,
        "ghost_limit": GHOST_LIMIT_BYTES,
        # A deleted file that has another name gets a third one until the wake.
        "link_remap": True,
        "timeout": timeout_s,
    }
    if freezer:
        options["freeze_cgroup"] = freezer
    elif purpose is Purpose.SLEEP:
        # The monitor has nothing to do then before the tasks end, and an answer that CRIU waits for
        # costs both a change of process, inside the freeze.
        options["notify_scripts"] = False
    if lazy:
        options["lazy_pages"] = True
    return Launch("DUMP", options, _entered(anatomy))


def restore(
    sleeper: Sleeper,
    images_dir: str,
    clone: str,
    *,
    lazy: bool = False,
) -> Launch:
    """What CRIU is asked in order to bring a container back from ``images_dir``.

    Args:
        sleeper: what was kept of it.
        images_dir: its images.
        clone: where the clone of its mount tree is mounted; its root is the container's.
        lazy: memory is served by a pager listening in ``images_dir``.
    """
    options = _common(images_dir, "restore.log") | {
        "root": clone,
        "external": external_for_restore(sleeper.mounts, clone),
        # Device nodes that the container sees at another path than the dump recorded.
        "evasive_devices": True,
        "rst_sibling": True,
        "inherit_fd": [
            {"key": key, "fd": FIRST_STDIO_FD + number} for number, key in sleeper.stdio
        ],
    }
    if sleeper.lsm_profile:
        options["lsm_profile"] = f"apparmor:{sleeper.lsm_profile}"
    if lazy:
        options["lazy_pages"] = True
    if sleeper.system_v:
        options["join_ns"] = [{"ns": "ipc", "ns_file": sleeper.joined["ipc"]}]
    return Launch("RESTORE", options, _entered(sleeper))


def restore_elsewhere(
    sleeper: Sleeper,
    there: Anatomy,
    images_dir: str,
    clone: str,
    *,
    lazy: bool = False,
) -> Launch:
    """What CRIU is asked in order to bring a container back on another node, in another's place.

    The images say what the container was; mounts, namespaces, stdio and LSM profile are those of
    the container that was made there from the same spec and has not been started.

    Args:
        sleeper: what was kept of it, from the node that it has left.
        there: the container whose place it takes.
        images_dir: its images, on the node that it comes to.
        clone: where the clone of ``there``'s mount tree is mounted.
        lazy: memory is served by a pager listening in ``images_dir``.

    Raises:
        Refused: something that it had is not there; nothing was done.
    """
    points = {one.point for one in there.mounts}
    lacking = [f"the mount {one.point}" for one in sleeper.mounts
               if one.ours and one.point not in points]  # fmt: skip
    numbers = {one.number for one in there.stdio}
    lacking += [f"its {STDIO_NAMES[number]}" for number, _ in sleeper.stdio
                if number not in numbers]  # fmt: skip
    lacking += [f"the pod's {kind} namespace" for kind in sleeper.joined
                if kind not in there.joined]  # fmt: skip
    if lacking:
        raise Refused(
            f"what it has on its node is not here: {', '.join(lacking)}",
            where=f"container {there.container_id}",
            remedy="make the replacement from the same pod spec",
        )
    here = replace(
        sleeper,
        container_id=there.container_id,
        joined={kind: there.joined[kind] for kind in sleeper.joined},
        lsm_profile=there.lsm_profile,
    )
    return restore(here, images_dir, clone, lazy=lazy)


def archive(
    anatomy: Anatomy,
    images_dir: str,
    bound: Collection[str],
    masked: Collection[str],
    freezer: str,
) -> Launch:
    """What CRIU is asked for an image that runc can restore: its names, its cgroup mode.

    The container runs on. Connections are written down as closed: where such an image is restored
    the address is another one, and runc's restore refuses images with open connections.

    Args:
        anatomy: the container.
        images_dir: an existing empty directory.
        bound: the targets of config.json's bind mounts, which runc's restore binds by that name.
        masked: the paths of config.json that are masked, by /dev/null if they are files.
        freezer: its cgroup of the freezer, which is frozen.
    """
    external = [f"net[{anatomy.network_inode}]:extRootNetNS"]
    for one in anatomy.mounts:
        if one.point in bound or one.kind == "cgroup":
            external.append(f"mnt[{one.point}]:{one.point}")
        elif one.point in masked and one.root == "/null":
            external.append(f"mnt[{one.point}]:/dev/null")
    options = _common(images_dir, "dump.log") | {
        "pid": anatomy.init_pid,
        "root": anatomy.rootfs,
        "external": external,
        "leave_running": True,
        "tcp_established": False,
        "tcp_close": True,
        "tcp_skip_in_flight": True,
        "ghost_limit": GHOST_LIMIT_BYTES,
        "manage_cgroups_mode": "SOFT",
        "freeze_cgroup": freezer,
        "timeout": 10,
    }
    return Launch("DUMP", options, ())
