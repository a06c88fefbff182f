# SPDX-License-Identifier: Apache-2.0
"""What the native library's proofs mean."""

from __future__ import annotations

import errno
from collections.abc import Callable

from shim.doctor.facts import BpfLoad, Proof, Proofs, SockDiag, Userfaultfd
from shim.doctor.model import Verdict, missing, ok, unknown, warning

# From <linux/userfaultfd.h>.
UFFD_FEATURES = {
    "WP": 1 << 0,
    "EVENT_FORK": 1 << 1,
    "EVENT_REMAP": 1 << 2,
    "EVENT_REMOVE": 1 << 3,
    "MISSING_SHMEM": 1 << 5,
    "EVENT_UNMAP": 1 << 6,
    "MINOR_SHMEM": 1 << 10,
    "WP_UNPOPULATED": 1 << 13,
    "WP_ASYNC": 1 << 15,
}
# Without these a restored process cannot be filled lazily: it may fork, move and drop memory.
LAZY_NEEDS = ("EVENT_FORK", "EVENT_REMAP", "EVENT_REMOVE", "EVENT_UNMAP")

BUILD = "install podferry's wheel with libbpf1, or build it: docs/doctor.md"
AS_ROOT = "run as root, in the host's namespaces"

REQUIRED_FAMILIES = frozenset({"tcp", "udp", "unix", "packet", "netlink"})
# -EINVAL: the kind is known, and wants parameters that the probe does not give.
KNOWN_KIND = errno.EINVAL


def unloaded(proof: Proof) -> Verdict | None:
    """The verdict where the native library, or the right to try, is missing."""
    if not proof.loaded:
        return unknown(proof.message, BUILD)
    if proof.errno_value in (errno.EPERM, errno.EACCES):
        return unknown(proof.message, AS_ROOT)
    return None


def single(name: str, remedy: str) -> Callable[[Proofs], Verdict]:
    """A judge of one proof that should work; ``remedy`` is for where it does not."""

    def judge(facts: Proofs) -> Verdict:
        proof = facts.by_name[name]
        if proof.works:
            return ok("works")
        return unloaded(proof) or missing(proof.message, remedy)

    return judge


def userfaultfd(facts: Userfaultfd) -> Verdict:
    """Filling must work; the events of a lazy restore should be there."""
    if not facts.proof.works:
        remedy = "use a kernel with CONFIG_USERFAULTFD"
        return unloaded(facts.proof) or missing(facts.proof.message, remedy)
    names = [name for name, bit in UFFD_FEATURES.items() if facts.features & bit]
    absent = [name for name in LAZY_NEEDS if name not in names]
    if absent:
        return missing(f"works, without {', '.join(absent)}", "use Linux 4.11 or newer")
    absent = [name for name in UFFD_FEATURES if name not in names]
    if absent:
        return warning(f"works, without {', '.join(absent)}", "use Linux 6.7 or newer")
    return ok(f"works, with {', '.join(names)}")


def pagemap_scan(facts: Proofs) -> Verdict:
    """The best way to know the pages that changed."""
    proof = facts.by_name["pagemap_scan"]
    if proof.works:
        return ok("one written page of eight was reported, twice")
    return unloaded(proof) or warning(proof.message, "use Linux 6.7 or newer")


def soft_dirty(facts: Proofs) -> Verdict:
    """Only wanted where PAGEMAP_SCAN does not work."""
    proof, better = facts.by_name["soft_dirty"], facts.by_name["pagemap_scan"]
    if proof.works:
        return ok("works")
    if better.works:
        return ok("absent, and not needed: PAGEMAP_SCAN works")
    return (
        unloaded(proof)
        or unloaded(better)
        or warning(
            f"{proof.message}, and PAGEMAP_SCAN does not work either: pages are read and hashed",
            "use Linux 6.7 or newer, or one with CONFIG_MEM_SOFT_DIRTY",
        )
    )


def sock_diag(facts: SockDiag) -> Verdict:
    """CRIU lists the sockets of a pod through it."""
    if not facts.proof.works:
        remedy = "use a kernel with CONFIG_INET_DIAG and CONFIG_UNIX_DIAG, or load their modules"
        return unloaded(facts.proof) or missing(facts.proof.message, remedy)
    absent = sorted(REQUIRED_FAMILIES - facts.families)
    if absent:
        modules = " ".join(f"{name}_diag" for name in absent)
        return missing(f"does not list {', '.join(absent)}", f"load the modules: {modules}")
    return ok(f"lists {', '.join(sorted(facts.families))}")


def bpf_load(facts: BpfLoad) -> Verdict:
    """Our own programs must pass this kernel's verifier."""
    if facts.proof.works:
        return ok("the kernel's verifier takes our XDP and tc programs")
    if facts.log:  # the verifier spoke: this is no lack of rights
        return missing(
            f"{facts.proof.message}; the verifier: {facts.log}",
            "use Linux 5.18 or newer; if it is, report this as a bug",
        )
    return unloaded(facts.proof) or missing(
        facts.proof.message, "use a kernel with CONFIG_BPF_SYSCALL, 5.18 or newer"
    )


def tc(facts: Proofs) -> Verdict:
    """tcx is wanted; a clsact filter does, but other programs may remove it."""
    tcx, clsact = facts.by_name["tcx"], facts.by_name["clsact"]
    if tcx.works:
        return ok("tcx counted a datagram")
    if clsact.works:
        return warning(f"only clsact: {tcx.message}", "use Linux 6.6 or newer for tcx")
    return unloaded(tcx) or missing(
        f"{tcx.message}; {clsact.message}", "use a kernel with CONFIG_NET_CLS_ACT, 6.6 or newer"
    )


def _known(proof: Proof) -> bool:
    return proof.works or proof.errno_value == KNOWN_KIND


def hold_devices(facts: Proofs) -> Verdict:
    """A pod's packets are held in a small device with a token bucket."""
    wanted = {name: facts.by_name[name] for name in ("veth", "ifb", "tbf")}
    absent = [name for name, proof in wanted.items() if not _known(proof)]
    if not absent:
        return ok("veth, ifb and tbf can be made")
    first = wanted[absent[0]]
    return unloaded(first) or missing(
        f"cannot be made: {', '.join(absent)}", "load the modules, or use a kernel that has them"
    )


def optional_devices(facts: Proofs) -> Verdict:
    """Neither is needed: one shortens a program of ours, the other a hold."""
    shown = {"ipip": "ipip", "plug": "sch_plug"}
    absent = [name for name in shown if not _known(facts.by_name[name])]
    if absent:
        listed = ", ".join(shown[name] for name in absent)
        return unloaded(facts.by_name[absent[0]]) or ok(f"absent: {listed}; neither is needed")
    return ok("ipip and sch_plug can be made")
