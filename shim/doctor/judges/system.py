# SPDX-License-Identifier: Apache-2.0
"""What the kernel's release and options, capabilities, pipes and directories mean."""

from __future__ import annotations

import hashlib
import re

from shim.doctor.facts import (
    Capabilities,
    Cpu,
    Directories,
    Kernel,
    KernelOptions,
    Nat,
    PipeSize,
)
from shim.doctor.model import Verdict, missing, ok, unknown, warning

OLDEST_KERNEL, WANTED_KERNEL = (5, 10), (6, 7)
MACHINES = ("x86_64", "aarch64")

# Without one of these CRIU cannot dump or restore an ordinary container
# (https://criu.org/Linux_kernel), or our programs cannot be loaded.
NEEDED_OPTIONS = (
    "CHECKPOINT_RESTORE",
    "NAMESPACES",
    "PID_NS",
    "NET_NS",
    "UTS_NS",
    "IPC_NS",
    "FHANDLE",
    "EVENTFD",
    "EPOLL",
    "INOTIFY_USER",
    "UNIX_DIAG",
    "INET_DIAG",
    "INET_UDP_DIAG",
    "PACKET_DIAG",
    "NETLINK_DIAG",
    "CGROUPS",
    "OVERLAY_FS",
)
WANTED_OPTIONS = (
    "USERFAULTFD",
    "BPF_SYSCALL",
    "BPF_JIT",
    "NET_CLS_ACT",
    "NET_SCH_INGRESS",
    "NET_SCH_TBF",
    "IFB",
    "VETH",
    "NF_CONNTRACK",
    "NF_CT_NETLINK",
    "NF_TABLES",
    "TIME_NS",
)

# Numbers from <linux/capability.h>.
NEEDED_CAPABILITIES = {
    "CHOWN": 0,
    "DAC_OVERRIDE": 1,
    "FOWNER": 3,
    "KILL": 5,
    "SETGID": 6,
    "SETUID": 7,
    "SETPCAP": 8,
    "NET_ADMIN": 12,
    "NET_RAW": 13,
    "SYS_CHROOT": 18,
    "SYS_PTRACE": 19,
    "SYS_ADMIN": 21,
    "MKNOD": 27,
}
SYS_RESOURCE = 24

# CRIU's lazy page server doubles its pipes; podferry's sysctl drop-in sets this much.
WANTED_PIPE_BYTES, LEAST_PIPE_BYTES = 32 << 20, 1 << 20

VOLATILE = ("tmpfs", "ramfs")


def kernel(facts: Kernel) -> Verdict:
    """Releases in which the system calls came; the proofs say what really works."""
    found = f"Linux {facts.release} on {facts.machine}"
    match = re.match(r"(\d+)\.(\d+)", facts.release)
    if match is None:
        return unknown(f"{found}: no release number")
    number = (int(match.group(1)), int(match.group(2)))
    if facts.machine not in MACHINES:
        return warning(f"{found}: never tried", f"use one of {', '.join(MACHINES)}")
    if number < OLDEST_KERNEL:
        return missing(found, "use Linux 5.10 or newer, 6.7 or newer for everything")
    if number < WANTED_KERNEL:
        return warning(
            f"{found}: no PAGEMAP_SCAN (6.7), so finding changed pages costs more",
            "use Linux 6.7 or newer",
        )
    return ok(found)


def kernel_options(facts: KernelOptions) -> Verdict:
    """An option that is a module counts: it can be loaded."""
    if not facts.source:
        return unknown(
            "neither /proc/config.gz nor /boot/config is here; the other checks try the features",
            "mount /boot, or load the module `configs`",
        )
    absent = [name for name in NEEDED_OPTIONS if facts.values.get(name) not in ("y", "m")]
    if absent:
        return missing(
            f"not in {facts.source}: {', '.join(absent)}", "use a kernel that has these options"
        )
    absent = [name for name in WANTED_OPTIONS if facts.values.get(name) not in ("y", "m")]
    if absent:
        return warning(f"not in {facts.source}: {', '.join(absent)}", "use a kernel with these")
    return ok(f"all {len(NEEDED_OPTIONS) + len(WANTED_OPTIONS)} are in {facts.source}")


def _lacks(mask: int, needed: dict[str, int]) -> list[str]:
    return [name for name, bit in needed.items() if not mask >> bit & 1]


def capabilities(facts: Capabilities) -> Verdict:
    """Of this process, and of what it could have: the service gets the bounding set."""
    absent = _lacks(facts.bounding, NEEDED_CAPABILITIES)
    if absent:
        return missing(
            f"not in the bounding set: {', '.join(f'CAP_{name}' for name in absent)}",
            "grant them to the container or service that podferry runs in",
        )
    absent = _lacks(facts.effective, NEEDED_CAPABILITIES)
    if absent:
        return unknown(
            f"this process lacks {', '.join(f'CAP_{name}' for name in absent)}", "run as root"
        )
    if _lacks(facts.bounding, {"SYS_RESOURCE": SYS_RESOURCE}):
        return warning(
            "CAP_SYS_RESOURCE is not in the bounding set: no larger pipes, no lower oom_score_adj",
            "grant it; or set fs.pipe-max-size, and restrict_oom_score_adj in containerd",
        )
    return ok("all that are needed")


def pipe_size(facts: PipeSize) -> Verdict:
    """Pages travel through pipes."""
    found = f"fs.pipe-max-size is {facts.max_bytes >> 10} KiB"
    if facts.sys_resource:
        return ok(f"{found}, and CAP_SYS_RESOURCE may exceed it")
    remedy = f"sysctl fs.pipe-max-size={WANTED_PIPE_BYTES} (`podferry install` sets it)"
    if facts.max_bytes < LEAST_PIPE_BYTES:
        return missing(found, remedy)
    if facts.max_bytes < WANTED_PIPE_BYTES:
        return warning(f"{found} and CAP_SYS_RESOURCE is missing: lazy page serving fails", remedy)
    return ok(found)


def cpu(facts: Cpu) -> Verdict:
    """Only a pair of nodes can be judged; the digest is for comparing them by eye."""
    if not facts.flags:
        return unknown("/proc/cpuinfo tells no feature flags")
    digest = hashlib.sha256(" ".join(sorted(facts.flags)).encode()).hexdigest()[:12]
    return ok(f"{facts.model or 'unnamed'}, {len(facts.flags)} features, digest {digest}")


def nat(facts: Nat) -> Verdict:
    """Entries of a moved pod's flows are copied where the node tracks connections."""
    absent = [name for name in ("nft", "iptables") if not facts.commands.get(name)]
    if len(absent) == 2:
        return warning("neither nft nor iptables is installed", "apt install nftables")
    tracked = "connections are tracked" if facts.conntrack else "connections are not tracked yet"
    present = ", ".join(name for name, path in sorted(facts.commands.items()) if path)
    return ok(f"{present} installed; {tracked}")


def directories(facts: Directories) -> Verdict:
    """The journal must survive a reboot; images in the run directory should not."""
    state, run = facts.state, facts.run
    if state.kind in VOLATILE:
        return warning(
            f"{state.path} is on {state.kind} ({state.on}): the journal would not survive a reboot",
            "put it on a disk, or set service.state_dir",
        )
    if run.kind not in VOLATILE:
        return warning(
            f"{run.path} is on {run.kind or 'an unknown file system'} ({run.on}), not on tmpfs",
            "mount a tmpfs on /run, or set service.run_dir",
        )
    return ok(f"{run.path} on {run.kind}, {state.path} on {state.kind}")
