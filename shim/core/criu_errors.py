# SPDX-License-Identifier: Apache-2.0
"""Finds the cause of a failure in what CRIU says; the texts are CRIU 4.2's own."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from shim.core.causes import CAUSES, Cause

# (00.012345) pie: 12: Error (criu/files.c:94): Can't dump file ...
_ERROR = re.compile(r"^(?:\([0-9.]+\)\s*)?(?:pie: )?(?:[0-9]+: )?Error \([^)]*\): (?P<text>.*)$")

# Lines that CRIU writes at every failure, or although nothing failed.
_NOISE = (
    re.compile(r"RLIMIT_NOFILE for self"),
    re.compile(r"(Dumping|Restoring) FAILED"),
    re.compile(r"\bfailed with -?[0-9]+$"),
    re.compile(r"^(Unable to|Can't) (fully )?(unseize|cure)"),
    re.compile(r"exited, (status|trying)"),
)

# In the order of their power to explain: the first pattern that any line matches wins.
_PATTERNS: tuple[tuple[str, str], ...] = (
    (r"No space left on device|Disk quota exceeded", "no_room"),
    (r"Cannot allocate memory|Out of memory", "no_memory"),
    (r"Function not implemented", "old_kernel"),
    # Its descriptors cannot be sent over a socket, which is how CRIU takes all of them.
    (r"io_uring|send_fds failed \(-22\)", "io_uring"),
    (r"multipathtcp|Unsupported proto 262", "mptcp"),
    (r"Unsupported (proto|socket)|[Uu]nknown socket (family|collected)", "socket_kind"),
    (r"Can't dump (raw|netlink|packet) socket|socket of family|SCTP", "socket_kind"),
    (r"Can't dump corked", "corked_socket"),
    (r"dangling tty|--shell-job|session from, aborting|tty driver|[Pp]ts.*external", "terminal"),
    (r"doesn't belong to the target user namespace|userns", "user_namespace"),
    (r"without the process init|pid namespace without", "shared_pid_namespace"),
    (r"[Nn]ested (mount|[a-z]+) namespace|sub-task in NS", "nested_namespace"),
    (r"is outside of its pid namespace|not in the dumped", "exec_session"),
    (r"Can't dump ghost file .* increase limit", "deleted_file"),
    (r"Can't create link remap", "deleted_linked_file"),
    (r"SECRETMEM|secretmem|memfd_secret", "secret_memory"),
    (r"uprobes", "uprobes"),
    (r"Unseizable non-zombie|SEIZE [0-9]+.*ptrace", "traced"),
    (r"External socket is used|half of stream unix|name-less external", "outside_unix_socket"),
    (r"overmounted|Unable to open mount|[Mm]ount .*not reachable", "hidden_mount"),
    (r"fuse mount but not external|FUSE", "fuse"),
    (r"Can't dump that handle|inotify|fanotify|irmap", "watched_path"),
    (r"Can't get rlimit|Can't get limits", "no_rlimit_capability"),
    (r"seccomp", "seccomp"),
    (r"anon_inode|userfaultfd|\[perf_event\]|bpf", "anonymous_file"),
    (r"Can't dump file [0-9]+ of that type \[2|chr|[Dd]evice", "device"),
    (r"Can't lookup mount=|outside of|can't find mount", "outside_file"),
    (r"Can't bind inet|Cannot assign requested address|Address already in use", "address_gone"),
    (r"CPU (Feature|instruction|xfeatures)|cpuinfo", "cpu_features"),
    (r"File .* has bad (size|mode)|Can't open file|Can't openat|unable to open", "file_gone"),
    (r"Can't fork for [0-9]+: File exists|Pid [0-9]+ do not match", "pid_taken"),
    (r"Unexpected EOF|magic|[Cc]orrupt|Failed to read|bad image|Can't read", "images_damaged"),
    (r"[Tt]imed? ?out", "timeout"),
    (r"[Kk]ernel (doesn't|lacks|seems|probably)|lacks .* feature|kerndat", "old_kernel"),
    (r"Operation not permitted|Permission denied|capabilit", "no_capability"),
)
# What the monitor says where CRIU had no chance to say anything.
_UNSAID = {"CRIU cannot be executed": "no_criu", "did not answer in time": "timeout"}
_COMPILED = tuple((re.compile(pattern), name) for pattern, name in _PATTERNS)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """A failure of CRIU in plain words.

    Attributes:
        cause: the reason and its remedy.
        line: CRIU's own line that tells it, "" if there is none.
    """

    cause: Cause
    line: str

    def __str__(self) -> str:
        told = f" (criu: {self.line})" if self.line else ""
        return f"{self.cause.reason}{told}; {self.cause.remedy}"


def error_lines(log: str) -> list[str]:
    """The error lines of a log of CRIU that mean something, in their order, without its prefix."""
    found = []
    for line in log.splitlines():
        match = _ERROR.match(line.strip())
        if match and not any(one.search(match["text"]) for one in _NOISE):
            found.append(match["text"].strip())
    return found


def diagnose(log: str, message: str = "") -> Diagnosis:
    """The cause of a failure.

    Args:
        log: CRIU's log, or its end.
        message: what its answer said.
    """
    lines = [*error_lines(log), *error_lines(message)]
    for pattern, name in _COMPILED:
        hit = _first(pattern, lines)
        if hit:
            return Diagnosis(CAUSES[name], hit)
    for words, name in _UNSAID.items():
        if words in message:
            return Diagnosis(CAUSES[name], "")
    return Diagnosis(CAUSES["unknown"], lines[0] if lines else message.strip())


def _first(pattern: re.Pattern[str], lines: Iterable[str]) -> str:
    return next((line for line in lines if pattern.search(line)), "")
