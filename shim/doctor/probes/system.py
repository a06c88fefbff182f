# SPDX-License-Identifier: Apache-2.0
"""What /proc, /boot and the file systems say: kernel, capabilities, pipes, CPU, directories."""

from __future__ import annotations

import gzip
import os
import re
import shutil
from pathlib import Path

from shim.doctor.facts import (
    Capabilities,
    Cpu,
    Directories,
    Directory,
    Kernel,
    KernelOptions,
    Mount,
    Nat,
    PipeSize,
)
from shim.settings import Settings

CAP_SYS_RESOURCE = 24
_OPTION = re.compile(r"^CONFIG_(\w+)=(.*)$", re.MULTILINE)
_OCTAL = re.compile(r"\\([0-7]{3})")


def kernel(settings: Settings) -> Kernel:
    """uname(2)."""
    name = os.uname()
    return Kernel(name.release, name.machine)


def kernel_options(settings: Settings) -> KernelOptions:
    """The options the running kernel was built with, where it or its package tells them."""
    release = os.uname().release
    for path in (
        Path("/proc/config.gz"),
        Path(f"/boot/config-{release}"),
        Path(f"/lib/modules/{release}/config"),
    ):
        if not path.is_file():
            continue
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8", "replace")
        return KernelOptions(str(path), dict(_OPTION.findall(text)))
    return KernelOptions("", {})


def capabilities(settings: Settings) -> Capabilities:
    """The masks of this process."""
    text = Path("/proc/self/status").read_text("ascii", "replace")
    masks = dict(re.findall(r"^(Cap\w+):\s*([0-9a-f]+)$", text, re.MULTILINE))
    return Capabilities(int(masks["CapEff"], 16), int(masks["CapBnd"], 16))


def has_sys_resource(masks: Capabilities) -> bool:
    """Whether CAP_SYS_RESOURCE can be had here at all."""
    return bool(masks.bounding >> CAP_SYS_RESOURCE & 1)


def pipe_size(settings: Settings) -> PipeSize:
    """fs.pipe-max-size and the right to exceed it."""
    limit = int(Path("/proc/sys/fs/pipe-max-size").read_text("ascii"))
    return PipeSize(limit, has_sys_resource(capabilities(settings)))


def cpu(settings: Settings) -> Cpu:
    """The flags that every CPU has, which a process brought here may use."""
    text = Path("/proc/cpuinfo").read_text("utf-8", "replace")
    models = re.findall(r"^(?:model name|CPU implementer)\s*:\s*(.*)$", text, re.MULTILINE)
    flags = [
        frozenset(line.split())
        for line in re.findall(r"^(?:flags|Features)\s*:\s*(.*)$", text, re.MULTILINE)
    ]
    return Cpu(
        models[0] if models else "", frozenset.intersection(*flags) if flags else frozenset()
    )


def nat(settings: Settings) -> Nat:
    """The commands for packet filters, and whether this kernel has connection tracking loaded."""
    names = ("nft", "iptables", "conntrack")
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    return Nat(
        {name: shutil.which(name, path=path) or "" for name in names},
        Path("/proc/sys/net/netfilter/nf_conntrack_max").exists(),
    )


def mounts() -> list[Mount]:
    """/proc/self/mounts, in its order: the last one on a path is the one that is seen."""
    found = []
    for line in Path("/proc/self/mounts").read_text("utf-8", "surrogateescape").splitlines():
        _, path, kind, options, *_ = line.split(" ")
        plain = _OCTAL.sub(lambda match: chr(int(match.group(1), 8)), path)
        found.append(Mount(kind, plain, tuple(options.split(","))))
    return found


def directories(settings: Settings) -> Directories:
    """On which file systems the service's directories are, or will be made."""
    table = mounts()
    return Directories(
        _directory(settings.service.run_dir, table), _directory(settings.service.state_dir, table)
    )


def _directory(path: str, table: list[Mount]) -> Directory:
    existing = next(one for one in (Path(path), *Path(path).parents) if one.exists()).resolve()
    under = [mount for mount in table if existing.is_relative_to(mount.path)]
    longest = max(under, key=lambda mount: len(mount.path), default=Mount("", "/", ()))
    last = [mount for mount in under if mount.path == longest.path]
    return Directory(path, longest.path, last[-1].kind if last else "")
