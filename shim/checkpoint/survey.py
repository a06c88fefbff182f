# SPDX-License-Identifier: Apache-2.0
"""Looks at the live processes of a container for what decides whether they can sleep or move.

Nothing is stopped or changed. What ends while it is looked at is left out.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import psutil

from shim.core.launch import Anatomy
from shim.core.preflight import Node, OpenFile, Process, Survey

_NAMESPACES = ("mnt", "net", "ipc", "uts", "pid", "user")
_MAPPED_NAME = re.compile(r"^\S+ \S+ \S+ (\S+) \S+ +(\S.*)$", re.MULTILINE)
_CAP_SYS_RESOURCE = 24
_WORTH_NOTING = ("anon_inode:[io_uring]", "/secretmem", "[uprobes]", "/SYSV", "/dev/")


def read(anatomy: Anatomy) -> Survey:
    """Surveys a running container."""
    return Survey(
        container_id=anatomy.container_id,
        terminal=anatomy.terminal,
        mounts=anatomy.mounts,
        processes=tuple(_processes(anatomy.tasks)),
        strangers=anatomy.strangers,
        init_pid=anatomy.init_pid,
        node=_node(),
    )


def _processes(tasks: tuple[int, ...]) -> Iterator[Process]:
    for pid in tasks:
        try:
            yield _process(pid)
        except (OSError, psutil.Error, KeyError, ValueError):
            continue  # it has ended


def _process(pid: int) -> Process:
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    mapped = {
        name
        for _, name in _MAPPED_NAME.findall(Path(f"/proc/{pid}/maps").read_text())
        if any(mark in name for mark in _WORTH_NOTING)
    }
    return Process(
        pid=pid,
        name=status["Name"].strip(),
        inside_pids=tuple(int(one) for one in status["NSpid"].split()),
        threads=int(status["Threads"]),
        traced=int(status["TracerPid"]) != 0,
        uid=int(status["Uid"].split()[0]),
        resident_bytes=resident(pid),
        namespaces={kind: _inode(f"/proc/{pid}/ns/{kind}") for kind in _NAMESPACES},
        mapped=tuple(sorted(mapped)),
        files=tuple(_files(pid)),
    )


def resident(pid: int) -> int:
    """The memory of a process in bytes, of what it shares its part; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    for line in lines:
        if line.startswith("Pss:"):  # what is shared is counted once over all processes
            return int(line.split()[1]) * 1024
    return 0


def _inode(path: str) -> int:
    return Path(path).stat().st_ino


def _files(pid: int) -> Iterator[OpenFile]:
    for path in Path(f"/proc/{pid}/fd").iterdir():
        try:
            yield _file(pid, path)
        except (OSError, ValueError):
            continue  # it was closed


def _file(pid: int, path: Path) -> OpenFile:
    target = str(path.readlink())
    seen = path.stat()
    info = dict(
        line.split(":", 1)
        for line in Path(f"/proc/{pid}/fdinfo/{path.name}").read_text().splitlines()
        if ":" in line
    )
    protocol = ""
    if target.startswith("socket:"):
        protocol = os.getxattr(path, "system.sockprotoname").rstrip(b"\0").decode("ascii")
    return OpenFile(
        number=int(path.name),
        target=target,
        mode=seen.st_mode,
        links=seen.st_nlink,
        size_bytes=seen.st_blocks * 512,
        mount_id=int(info.get("mnt_id", "0")),
        protocol=protocol,
    )


def _node() -> Node:
    bounding = 0
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            bounding = int(line.split()[1], 16)
    flags: list[str] = []
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("flags", "Features")):
            flags = line.split(":", 1)[1].split()
            break
    return Node(
        user_namespace=_inode("/proc/self/ns/user"),
        may_read_limits=bool(bounding >> _CAP_SYS_RESOURCE & 1),
        cpu_features=tuple(sorted(flags)),
    )
