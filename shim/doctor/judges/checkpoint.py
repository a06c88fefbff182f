# SPDX-License-Identifier: Apache-2.0
"""What criu's and runc's own words, the cgroup layout and the freezer's proof mean."""

from __future__ import annotations

import re

from shim.doctor.facts import Cgroups, Command, CriuFeatures, Freezer
from shim.doctor.model import Verdict, missing, ok, unknown, warning

OLDEST_CRIU, WANTED_CRIU = (3, 17), (4, 0)
OLDEST_RUNC = (1, 1)
INSTALL_CRIU = "install CRIU 4.2 or newer (package criu)"

# By criu's own names (criu/cr-check.c). A dump or restore of an ordinary container fails without
# the first; without the second only of containers that use the thing.
NEEDED_FEATURES = (
    "uffd",
    "uffd-noncoop",
    "pidfd_store",
    "clone3_set_tid",
    "external_net_ns",
    "tcp_half_closed",
    "sk_unix_file",
    "cgroupns",
    "can_map_vdso",
    "fdinfo_lock",
    "mnt_id",
)
WANTED_FEATURES = (
    "timens",
    "get_rseq_conf",
    "pagemap_scan",
    "openat2",
    "overlayfs_maps",
    "seccomp_suspend",
    "move_mount_set_group",
    "ipv6_freebind",
)
# Reported and not judged: podferry tracks changed pages itself.
SHOWN_FEATURES = ("mem_dirty_track",)
ALL_FEATURES = NEEDED_FEATURES + WANTED_FEATURES + SHOWN_FEATURES


def _number(text: str, pattern: str) -> tuple[tuple[int, int], str] | None:
    match = re.search(pattern, text, re.IGNORECASE)
    if match is None:
        return None
    return (int(match.group(1)), int(match.group(2))), match.group(0).split()[-1]


def _tail(output: str) -> str:
    lines = [line for line in output.splitlines() if line.strip()]
    return lines[-1] if lines else "no output"


def criu_version(facts: Command) -> Verdict:
    """4.2 is what podferry is tested with; its page format is known from 3.17 on."""
    if not facts.path:
        return missing("criu is not installed", INSTALL_CRIU)
    version = _number(facts.output, r"Version: (\d+)\.(\d+)[.\d]*")
    if version is None:
        return unknown(f"{facts.path} --version says: {_tail(facts.output)}", INSTALL_CRIU)
    number, shown = version
    found = f"{shown} at {facts.path}"
    if number < OLDEST_CRIU:
        return missing(found, INSTALL_CRIU)
    if number < WANTED_CRIU:
        return warning(f"{found}; podferry is tested with 4.2", INSTALL_CRIU)
    return ok(found)


def criu_check(facts: Command) -> Verdict:
    """CRIU's own judgement of this kernel."""
    if not facts.path:
        return missing("criu is not installed", INSTALL_CRIU)
    if facts.status == 0:
        return ok(_tail(facts.output))
    if facts.status < 0:
        return missing(
            f"criu check died of signal {-facts.status}",
            f"this CRIU cannot run on this kernel; {INSTALL_CRIU}",
        )
    return missing(
        f"exit status {facts.status}: {_tail(facts.output)}",
        "run `criu check` as root in the host's namespaces and mend what it names",
    )


def criu_features(facts: CriuFeatures) -> Verdict:
    """A feature that this CRIU does not know the name of is not counted as absent."""
    if not facts.path:
        return missing("criu is not installed", INSTALL_CRIU)

    def absent(names: tuple[str, ...]) -> list[str]:
        return [
            name
            for name in names
            if name in facts.by_name
            and facts.by_name[name].status != 0
            and "Unknown feature" not in facts.by_name[name].output
        ]

    if lacking := absent(NEEDED_FEATURES):
        return missing(
            f"not supported here: {', '.join(lacking)}", "use a newer kernel and CRIU 4.2 or newer"
        )
    if lacking := absent(WANTED_FEATURES):
        return warning(
            f"not supported here: {', '.join(lacking)}; pods that use them cannot be moved",
            "use a newer kernel and CRIU 4.2 or newer",
        )
    shown = absent(SHOWN_FEATURES)
    note = f"; {', '.join(shown)} absent, and not needed" if shown else ""
    return ok(f"all {len(NEEDED_FEATURES) + len(WANTED_FEATURES)} supported{note}")


def runc_version(facts: Command) -> Verdict:
    """podferry-runtime hands each call on to it."""
    if not facts.path:
        return missing("runc is not installed", "install runc 1.1 or newer (package runc)")
    version = _number(facts.output, r"runc version (\d+)\.(\d+)\S*")
    if version is None:
        return unknown(f"{facts.path} --version says: {_tail(facts.output)}")
    number, shown = version
    if number < OLDEST_RUNC:
        return missing(f"{shown} at {facts.path}", "install runc 1.1 or newer")
    return ok(f"{shown} at {facts.path}")


def cgroup_layout(facts: Cgroups) -> Verdict:
    """The unified hierarchy is what Kubernetes and CRIU are tested with."""
    unified = [mount.path for mount in facts.mounts if mount.kind == "cgroup2"]
    legacy = [mount for mount in facts.mounts if mount.kind == "cgroup"]
    if not unified and not legacy:
        return missing("no cgroup file system is mounted", "mount cgroup2 at /sys/fs/cgroup")
    remedy = "boot with systemd.unified_cgroup_hierarchy=1"
    if not unified:
        return warning("version 1 only: no v2 freezer", remedy)
    if legacy:
        return warning(f"hybrid: controllers in version 1, version 2 at {unified[0]}", remedy)
    return ok(f"version 2 at {unified[0]}")


def freezer(facts: Freezer) -> Verdict:
    """The freeze of a pod is a cgroup's, so that nothing of it runs if CRIU dies."""
    if facts.tried and facts.froze and facts.thawed:
        return ok("a child in a cgroup of its own froze and thawed")
    remedy = "mount cgroup2 read-write (Linux 5.2 or newer has its freezer)"
    if facts.tried:
        step = "thaw" if facts.froze else "freeze"
        return missing(f"a child in a cgroup of its own did not {step}", remedy)
    if facts.problem.startswith(("Permission denied", "Operation not permitted")):
        return unknown(facts.problem, "run as root")
    return missing(facts.problem, remedy)
