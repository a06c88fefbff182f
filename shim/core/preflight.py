# SPDX-License-Identifier: Apache-2.0
"""Judges from a survey whether a container can sleep and move, what blocks it, and what it costs.

A blocker stops the dump or, worse, the restore. A note is something that the owner should know.
The facts come from shim/checkpoint/survey.py; the rules were tried against CRIU 4.2.1.
"""

from __future__ import annotations

import enum
import hashlib
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from shim.core.causes import CAUSES, Cause
from shim.core.launch import GHOST_LIMIT_BYTES
from shim.core.mounts import Mount, hidden

# What CRIU 4.2 dumps: sockets as the kernel names them (/proc/net/protocols), other objects of the
# kernel, and devices.
_SOCKETS = frozenset(
    {"TCP", "TCPv6", "UDP", "UDPv6", "UDP-Lite", "UDPLITEv6", "UNIX", "UNIX-STREAM"}
    | {"NETLINK", "PACKET", "RAW", "RAWv6", "PING", "PINGv6"}
)
_ANONYMOUS = frozenset({"eventfd", "eventpoll", "signalfd", "timerfd", "pidfd"})
_DEVICES = frozenset(
    f"/dev/{name}"
    for name in ("null", "zero", "full", "random", "urandom", "ptmx", "tty", "net/tun")
)
_DELETED = " (deleted)"

# Measured with CRIU 4.2.1 on tmpfs (docs/checkpoint.md): a process and a thread cost their parasite
# and registers, memory is copied at this rate.
_BASE_MS = 8.0
_PROCESS_MS = 4.0
_THREAD_MS = 0.4
_BYTES_PER_MS = 1.3e6


@dataclass(frozen=True, slots=True)
class OpenFile:
    """A descriptor. ``protocol`` is a socket's, as the kernel names it."""

    number: int
    target: str
    mode: int
    links: int = 1
    size_bytes: int = 0
    mount_id: int = 0
    protocol: str = ""


@dataclass(frozen=True, slots=True)
class Process:
    """A process; ``inside_pids`` are its ids from the node's namespace inwards."""

    pid: int
    name: str
    inside_pids: tuple[int, ...]
    threads: int = 1
    traced: bool = False
    uid: int = 0
    resident_bytes: int = 0
    namespaces: Mapping[str, int] = field(default_factory=dict)
    mapped: tuple[str, ...] = ()
    files: tuple[OpenFile, ...] = ()


@dataclass(frozen=True, slots=True)
class Node:
    """What of the node matters."""

    user_namespace: int
    may_read_limits: bool = True
    cpu_features: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Survey:
    """A container as it was found."""

    container_id: str
    init_pid: int
    node: Node
    processes: tuple[Process, ...]
    mounts: tuple[Mount, ...] = ()
    strangers: tuple[int, ...] = ()
    terminal: bool = False


class Blocks(enum.StrEnum):
    """What a finding stands in the way of."""

    SLEEP = "sleep"  # and a move too
    MOVE = "move"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found. ``where`` names the process and the object."""

    cause: Cause
    where: str
    blocks: Blocks = Blocks.SLEEP


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judgement on one container.

    Attributes:
        findings: what was found, blockers first.
        expected_freeze_ms: how long its tasks will stand still; a guess from measured figures.
        resident_bytes: what a sleep gives back, at most.
        processes: how many.
        threads: of all processes.
        connections: TCP sockets, which are kept.
        cpu_label: a short name of this CPU's features: equal names may exchange pods.
    """

    findings: tuple[Finding, ...]
    expected_freeze_ms: float
    resident_bytes: int
    processes: int
    threads: int
    connections: int
    cpu_label: str

    @property
    def can_sleep(self) -> bool:
        """Whether nothing stands in the way of a sleep."""
        return all(one.blocks is not Blocks.SLEEP for one in self.findings)

    @property
    def can_move(self) -> bool:
        """Whether nothing stands in the way of a move to an equal node."""
        return all(one.blocks is Blocks.NOTHING for one in self.findings)


def judge(survey: Survey) -> Verdict:
    """Judges a container."""
    found = [*_container(survey)]
    for process in survey.processes:
        found += _process(process, survey)
    threads = sum(one.threads for one in survey.processes)
    resident = sum(one.resident_bytes for one in survey.processes)
    count = len(survey.processes)
    tcp = sum(f.protocol in ("TCP", "TCPv6") for p in survey.processes for f in p.files)
    features = " ".join(survey.node.cpu_features).encode()
    order = [Blocks.SLEEP, Blocks.MOVE, Blocks.NOTHING]
    return Verdict(
        findings=tuple(sorted(dict.fromkeys(found), key=lambda one: order.index(one.blocks))),
        expected_freeze_ms=round(
            _BASE_MS + count * _PROCESS_MS + threads * _THREAD_MS + resident / _BYTES_PER_MS, 1
        ),
        resident_bytes=resident,
        processes=count,
        threads=threads,
        connections=tcp,
        cpu_label=hashlib.sha256(features).hexdigest()[:12],
    )


def _container(survey: Survey) -> Iterator[Finding]:
    if survey.terminal:
        yield Finding(CAUSES["terminal"], "container")
    for point in hidden(survey.mounts):
        yield Finding(CAUSES["hidden_mount"], point)
    init = next((one for one in survey.processes if one.pid == survey.init_pid), None)
    if init is None:
        return
    if init.inside_pids[-1] != 1:
        # Whoever else is in it belongs to the pod or the node.
        yield Finding(CAUSES["shared_pid_namespace"], _name(init))
    else:
        for pid in survey.strangers:
            yield Finding(CAUSES["exec_session"], f"process {pid}")
    if init.namespaces.get("user") != survey.node.user_namespace:
        yield Finding(CAUSES["user_namespace"], _name(init))
    for process in survey.processes:
        strange = [
            kind for kind, inode in process.namespaces.items() if init.namespaces[kind] != inode
        ]
        if strange:
            # CRIU dumps a nested network namespace and then cannot restore it.
            where = f"{_name(process)} ({', '.join(strange)})"
            yield Finding(CAUSES["nested_namespace"], where)


def _process(process: Process, survey: Survey) -> Iterator[Finding]:
    who = _name(process)
    if process.traced:
        yield Finding(CAUSES["traced"], who)
    if process.uid != 0 and not survey.node.may_read_limits:
        yield Finding(CAUSES["no_rlimit_capability"], f"{who}, user {process.uid}")
    for name in process.mapped:
        yield from _mapping(name, who)
    for one in process.files:
        cause = _file(one, survey)
        if cause:
            # Watches below /etc and a few other directories are found again, others are not; which
            # one this is shows at the dump, and one that fails leaves the container running.
            blocks = Blocks.NOTHING if cause == "watched_path" else Blocks.SLEEP
            yield Finding(CAUSES[cause], f"{who}, descriptor {one.number}: {_shown(one)}", blocks)


def _mapping(name: str, who: str) -> Iterator[Finding]:
    if "[io_uring]" in name:
        yield Finding(CAUSES["io_uring"], who)
    elif name.startswith("/secretmem"):
        yield Finding(CAUSES["secret_memory"], who)
    elif name == "[uprobes]":
        yield Finding(CAUSES["uprobes"], who)
    elif name.startswith("/dev/") and not name.startswith(("/dev/zero", "/dev/shm/")):
        yield Finding(CAUSES["device"], f"{who}, mapped {name}")


def _file(one: OpenFile, survey: Survey) -> str:
    """The name of what is wrong with a descriptor, "" if nothing is."""
    if one.protocol:
        if one.protocol.startswith("MPTCP"):
            return "mptcp"
        return "" if one.protocol in _SOCKETS else "socket_kind"
    if one.target.startswith("anon_inode:"):
        kind = one.target.removeprefix("anon_inode:").strip("[]")
        if kind == "io_uring":
            return "io_uring"
        if kind == "inotify":
            return "watched_path"
        return "" if kind in _ANONYMOUS else "anonymous_file"
    if stat.S_ISCHR(one.mode) or stat.S_ISBLK(one.mode):
        known = one.target in _DEVICES or one.target.startswith("/dev/pts/")
        return "" if known else "device"
    if stat.S_ISREG(one.mode) and one.target.endswith(_DELETED):
        return "deleted_file" if one.links == 0 and one.size_bytes > GHOST_LIMIT_BYTES else ""
    if one.target.startswith("/") and one.mount_id not in {m.mount_id for m in survey.mounts}:
        # Memory files and the like belong to mounts of the kernel's own.
        return "" if one.target.startswith(("/memfd:", "/SYSV", "/dev/zero")) else "outside_file"
    return ""


def _shown(one: OpenFile) -> str:
    return f"{one.target} {one.protocol}".strip()


def _name(process: Process) -> str:
    return f"{process.name} ({process.inside_pids[-1]})"
