# SPDX-License-Identifier: Apache-2.0
"""Judges whether a node can take a pod, from what both nodes say of themselves; no I/O.

What has run knows the processor that it ran on: a program that has looked for AVX-512 will use it
after the move. So the target must have every flag that the source has, but for those that a program
cannot use or see the lack of.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

OLDEST_CRIU = (4, 0)
ROOM_FACTOR = 2.1
"""The target holds the memory in its store and, while it is filled in, in the processes too."""

# Of the kernel or of the hypervisor, told to nobody by CPUID, or without instructions of their own.
_HARMLESS = re.compile(
    r"(arch_|perfmon|amd_|intel_|tsc_|nonstop_|constant_|pti|ibrs|ibpb|stibp|ssbd|virt_|hypervisor"
    r"|cpuid|rep_good|nopl|xtopology|extd_apicid|aperfmperf|flush_l1d|md_clear|spec_ctrl|overflow_"
    r"|succor|hw_pstate|ept|vpid|vmx|svm|npt|lbrv|vgif|umip|user_shstk|debug_swap|bus_lock|la57"
    r"|cmp_legacy|cr8_legacy|topoext|perfctr_|mce|mca|mtrr|pat|pse|pge|pae|apic|x2apic|acpi|ht|tm)"
)


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a node says of itself.

    Attributes:
        node: its name.
        version: of podferry there.
        kernel: release of its kernel.
        machine: as uname says.
        criu_version: "4.2.1", "" if there is none.
        cpu_flags: as /proc/cpuinfo names them.
        free_memory_bytes: that it could give.
        has_monitors: whether its runtime gives containers a monitor.
    """

    node: str
    version: str
    kernel: str
    machine: str
    criu_version: str
    cpu_flags: frozenset[str]
    free_memory_bytes: int
    has_monitors: bool


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why a node cannot take a pod, and what to do."""

    reason: str
    remedy: str


def obstacles(source: Capabilities, target: Capabilities, resident_bytes: int) -> list[Obstacle]:
    """Everything that keeps a pod from the target.

    Args:
        source: the node that it runs on.
        target: the node that it shall go to.
        resident_bytes: its resident memory.
    """
    found: list[Obstacle] = []
    if source.machine != target.machine:
        found.append(
            Obstacle(f"it has {target.machine}, the pod runs on {source.machine}",
                     "choose a node of the same architecture")
        )  # fmt: skip
    lacking = missing_flags(source.cpu_flags, target.cpu_flags)
    if lacking and source.machine == target.machine:
        shown = ", ".join(lacking[:6]) + (", ..." if len(lacking) > 6 else "")
        found.append(
            Obstacle(f"its processor lacks {shown}",
                     "choose a node of the same or a newer processor, or mask these features")
        )  # fmt: skip
    if not target.criu_version or _numbers(target.criu_version) < OLDEST_CRIU:
        found.append(
            Obstacle(f"its CRIU is {target.criu_version or 'absent'}, 4.0 is wanted",
                     "install criu there; see `podferry doctor` on that node")
        )  # fmt: skip
    elif _numbers(target.criu_version) < _numbers(source.criu_version)[:2]:
        found.append(
            Obstacle(f"its CRIU {target.criu_version} is older than {source.criu_version} here",
                     "bring both nodes to the same release of CRIU")
        )  # fmt: skip
    wanted = int(resident_bytes * ROOM_FACTOR)
    if target.free_memory_bytes < wanted:
        found.append(
            Obstacle(f"it has {target.free_memory_bytes >> 20} MiB free, {wanted >> 20} are wanted",
                     "free memory there, or put its stores on a disk ([move] stores_dir)")
        )  # fmt: skip
    if not target.has_monitors:
        found.append(
            Obstacle("its containerd gives containers no monitor",
                     "run `podferry install --containerd-runtime --restart-containerd` there")
        )  # fmt: skip
    return found


def missing_flags(have: Collection[str], there: Collection[str]) -> list[str]:
    """Flags of one processor that another lacks and that a program may depend on."""
    return sorted(one for one in set(have) - set(there) if not _HARMLESS.match(one))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(one) for one in re.findall(r"\d+", version)[:3])
