# SPDX-License-Identifier: Apache-2.0
"""The judges of proofs and of the system, for the good, the bad and the unknown."""

from __future__ import annotations

import errno

import pytest

from shim.doctor import facts as f
from shim.doctor.checks import CHECKS
from shim.doctor.judges import proofs, system
from shim.doctor.model import State
from tests.unit.doctor_case import Case
from tests.unit.test_doctor_judges_node import CASES as NODE_CASES

WORKS = f.Proof(True)
BROKEN = f.Proof(False, "the step that failed", errno.EOPNOTSUPP)
FORBIDDEN = f.Proof(False, "not allowed", errno.EPERM)
UNLOADED = f.Proof(False, "the native library cannot be loaded", loaded=False)

OK, WARNING, MISSING, UNKNOWN, _ = State


def named(**by_name: f.Proof) -> f.Proofs:
    return f.Proofs(by_name)


single = proofs.single("ptrace", "the remedy")
ALL_UFFD = sum(proofs.UFFD_FEATURES.values())
NO_ASYNC = ALL_UFFD & ~proofs.UFFD_FEATURES["WP_ASYNC"]
NO_REMAP = ALL_UFFD & ~proofs.UFFD_FEATURES["EVENT_REMAP"]
FAMILIES = proofs.REQUIRED_FAMILIES
EINVAL = f.Proof(False, "wants parameters", errno.EINVAL)
ENOENT = f.Proof(False, "no such kind", errno.ENOENT)

PROOF_CASES = [
    Case("a proof that works", single, named(ptrace=WORKS), OK),
    Case("a proof that fails", single, named(ptrace=BROKEN), MISSING, "the remedy"),
    Case("a proof without the right", single, named(ptrace=FORBIDDEN), UNKNOWN, "root"),
    Case("a proof without the library", single, named(ptrace=UNLOADED), UNKNOWN, "docs/doctor.md"),
    Case("all of userfaultfd", proofs.userfaultfd, f.Userfaultfd(WORKS, ALL_UFFD), OK, "WP_ASYNC"),
    Case("no WP_ASYNC", proofs.userfaultfd, f.Userfaultfd(WORKS, NO_ASYNC), WARNING, "WP_ASYNC"),
    Case("no remap", proofs.userfaultfd, f.Userfaultfd(WORKS, NO_REMAP), MISSING, "EVENT_REMAP"),
    Case("no userfaultfd", proofs.userfaultfd, f.Userfaultfd(BROKEN), MISSING, "USERFAULTFD"),
    Case("userfaultfd forbidden", proofs.userfaultfd, f.Userfaultfd(FORBIDDEN), UNKNOWN, "root"),
    Case("PAGEMAP_SCAN", proofs.pagemap_scan, named(pagemap_scan=WORKS), OK),
    Case("no PAGEMAP_SCAN", proofs.pagemap_scan, named(pagemap_scan=BROKEN), WARNING, "6.7"),
    Case("PAGEMAP_SCAN unknown", proofs.pagemap_scan, named(pagemap_scan=UNLOADED), UNKNOWN),
    Case("soft-dirty", proofs.soft_dirty, named(soft_dirty=WORKS, pagemap_scan=BROKEN), OK),
    Case(
        "soft-dirty is not needed",
        proofs.soft_dirty,
        named(soft_dirty=BROKEN, pagemap_scan=WORKS),
        OK,
        "not needed",
    ),
    Case(
        "no tracker at all",
        proofs.soft_dirty,
        named(soft_dirty=BROKEN, pagemap_scan=BROKEN),
        WARNING,
        "hashed",
    ),
    Case(
        "no soft-dirty, and PAGEMAP_SCAN unknown",
        proofs.soft_dirty,
        named(soft_dirty=BROKEN, pagemap_scan=FORBIDDEN),
        UNKNOWN,
        "root",
    ),
    Case(
        "soft-dirty unknown",
        proofs.soft_dirty,
        named(soft_dirty=UNLOADED, pagemap_scan=UNLOADED),
        UNKNOWN,
    ),
    Case("sock_diag", proofs.sock_diag, f.SockDiag(WORKS, FAMILIES), OK, "unix"),
    Case(
        "sock_diag without unix",
        proofs.sock_diag,
        f.SockDiag(WORKS, FAMILIES - {"unix"}),
        MISSING,
        "unix_diag",
    ),
    Case("no sock_diag", proofs.sock_diag, f.SockDiag(BROKEN), MISSING, "CONFIG_INET_DIAG"),
    Case("sock_diag unknown", proofs.sock_diag, f.SockDiag(UNLOADED), UNKNOWN),
    Case("BPF loads", proofs.bpf_load, f.BpfLoad(WORKS), OK),
    Case(
        "the verifier refuses",
        proofs.bpf_load,
        f.BpfLoad(f.Proof(False, "Permission denied", errno.EACCES), "R1 pointer prohibited"),
        MISSING,
        "R1 pointer prohibited",
    ),
    Case("BPF forbidden", proofs.bpf_load, f.BpfLoad(FORBIDDEN), UNKNOWN, "root"),
    Case("no BPF", proofs.bpf_load, f.BpfLoad(BROKEN), MISSING, "CONFIG_BPF_SYSCALL"),
    Case("tcx", proofs.tc, named(tcx=WORKS, clsact=WORKS), OK),
    Case("only clsact", proofs.tc, named(tcx=BROKEN, clsact=WORKS), WARNING, "6.6"),
    Case("neither tcx nor clsact", proofs.tc, named(tcx=BROKEN, clsact=BROKEN), MISSING),
    Case("tcx unknown", proofs.tc, named(tcx=UNLOADED, clsact=UNLOADED), UNKNOWN),
    Case(
        "a qdisc that wants parameters is there",
        proofs.hold_devices,
        named(veth=WORKS, ifb=WORKS, tbf=EINVAL),
        OK,
    ),
    Case(
        "no ifb",
        proofs.hold_devices,
        named(veth=WORKS, ifb=BROKEN, tbf=EINVAL),
        MISSING,
        "ifb",
    ),
    Case(
        "devices unknown",
        proofs.hold_devices,
        named(veth=FORBIDDEN, ifb=FORBIDDEN, tbf=FORBIDDEN),
        UNKNOWN,
    ),
    Case("ipip and plug", proofs.optional_devices, named(ipip=WORKS, plug=WORKS), OK, "can be"),
    Case("kinds unknown", proofs.optional_devices, named(ipip=WORKS, plug=FORBIDDEN), UNKNOWN),
    Case("no plug", proofs.optional_devices, named(ipip=WORKS, plug=ENOENT), OK, "sch_plug"),
]

ALL_OPTIONS = dict.fromkeys(system.NEEDED_OPTIONS + system.WANTED_OPTIONS, "y")
ALL_CAPS = (1 << 41) - 1
RESOURCE = 1 << system.SYS_RESOURCE
DISK = f.Directory("/var/lib/podferry", "/", "ext4")
TMPFS = f.Directory("/run/podferry", "/run", "tmpfs")


def kernel_of(release: str, machine: str = "x86_64") -> f.Kernel:
    return f.Kernel(release, machine)


def options_without(name: str) -> f.KernelOptions:
    return f.KernelOptions("/c", {key: value for key, value in ALL_OPTIONS.items() if key != name})


SYSTEM_CASES = [
    Case("a new kernel", system.kernel, kernel_of("6.12.9-amd64"), OK),
    Case("a kernel of two digits", system.kernel, kernel_of("10.0.0"), OK),
    Case("no PAGEMAP_SCAN yet", system.kernel, kernel_of("6.6.1"), WARNING, "6.7"),
    Case("an old kernel", system.kernel, kernel_of("4.19.0"), MISSING, "5.10"),
    Case("a strange machine", system.kernel, kernel_of("6.12.0", "riscv64"), WARNING, "riscv64"),
    Case("a strange release", system.kernel, kernel_of("next"), UNKNOWN),
    Case("all options", system.kernel_options, f.KernelOptions("/c", ALL_OPTIONS), OK),
    Case(
        "an option as a module",
        system.kernel_options,
        f.KernelOptions("/c", ALL_OPTIONS | {"UNIX_DIAG": "m"}),
        OK,
    ),
    Case("no UNIX_DIAG", system.kernel_options, options_without("UNIX_DIAG"), MISSING, "UNIX_DIAG"),
    Case("no TIME_NS", system.kernel_options, options_without("TIME_NS"), WARNING, "TIME_NS"),
    Case("no options told", system.kernel_options, f.KernelOptions("", {}), UNKNOWN, "/boot"),
    Case("all capabilities", system.capabilities, f.Capabilities(ALL_CAPS, ALL_CAPS), OK),
    Case(
        "no CAP_SYS_RESOURCE",
        system.capabilities,
        f.Capabilities(ALL_CAPS & ~RESOURCE, ALL_CAPS & ~RESOURCE),
        WARNING,
        "CAP_SYS_RESOURCE",
    ),
    Case(
        "no CAP_SYS_ADMIN to be had",
        system.capabilities,
        f.Capabilities(0, ALL_CAPS & ~(1 << 21)),
        MISSING,
        "CAP_SYS_ADMIN",
    ),
    Case("not root", system.capabilities, f.Capabilities(0, ALL_CAPS), UNKNOWN, "root"),
    Case("small pipes allowed to grow", system.pipe_size, f.PipeSize(65536, True), OK),
    Case("large pipes", system.pipe_size, f.PipeSize(32 << 20, False), OK),
    Case("the kernel's default", system.pipe_size, f.PipeSize(1 << 20, False), WARNING, "33554432"),
    Case("small pipes", system.pipe_size, f.PipeSize(65536, False), MISSING, "33554432"),
    Case("a processor", system.cpu, f.Cpu("EPYC", frozenset({"avx", "sse"})), OK, "2 features"),
    Case("no flags", system.cpu, f.Cpu("", frozenset()), UNKNOWN),
    Case("nft", system.nat, f.Nat({"nft": "/sbin/nft", "iptables": ""}, True), OK, "nft"),
    Case("no filter", system.nat, f.Nat({"nft": "", "iptables": ""}, False), WARNING),
    Case("good directories", system.directories, f.Directories(TMPFS, DISK), OK),
    Case("state on tmpfs", system.directories, f.Directories(TMPFS, TMPFS), WARNING, "reboot"),
    Case("run on a disk", system.directories, f.Directories(DISK, DISK), WARNING, "tmpfs"),
]


CASES = PROOF_CASES + SYSTEM_CASES


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
def test_verdict(case: Case) -> None:
    case.check()


def test_every_check_has_a_judge_that_is_tested() -> None:
    tested = {case.judge for case in CASES + NODE_CASES}
    # Judges made by single() differ in nothing but their name and remedy.
    made = {check.judge for check in CHECKS if "single.<locals>" in check.judge.__qualname__}
    assert {check.judge for check in CHECKS} - made - tested == set()


def test_the_digest_of_a_processor_depends_on_its_features_alone() -> None:
    one = system.cpu(f.Cpu("a", frozenset({"sse", "avx"}))).found
    other = system.cpu(f.Cpu("a", frozenset({"avx", "sse"}))).found
    third = system.cpu(f.Cpu("a", frozenset({"avx", "mmx"}))).found
    assert one == other != third
