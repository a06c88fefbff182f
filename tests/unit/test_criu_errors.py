# SPDX-License-Identifier: Apache-2.0
"""CRIU's own lines (4.2.1, as it wrote them on a node) and the causes that are read out of them."""

from __future__ import annotations

import pytest

from shim.core import criu_errors
from shim.core.causes import CAUSES

HARMLESS = (
    "Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self: Operation not permitted"
)
LINES = {
    "io_uring": "(00.1) Error (compel/src/lib/infect-util.c:1): send_fds failed (-22)",
    "mptcp": "Error (criu/sk-inet.c:137): inet: Unsupported proto 262 for socket 196506",
    "deleted_file": "Error (criu/files-reg.c:1031): "
    "Can't dump ghost file /tmp/g of 83886080 size, increase limit",
    "socket_kind": "Error (criu/sockets.c:767): sockets: BUG! Unknown socket collected (family 40)",
    "anonymous_file": "Error (criu/files-ext.c:94): "
    "Can't dump file 4 of that type [600] (anon anon_inode:[userfaultfd])",
    "watched_path": "Error (criu/fsnotify.c:287): fsnotify: \tCan't dump that handle",
    "deleted_linked_file": "Error (criu/files-reg.c:1122): "
    "Can't create link remap for /tmp/d/a. Use link-remap option.",
    "outside_file": "Error (criu/files-reg.c:1790): Can't lookup mount=1447 for fd=0 path=/null",
    "nested_namespace": "Error (criu/cr-restore.c:1): "
    "Can't restore sub-task in NS (cflags 40000000)",
    "secret_memory": "Error (criu/proc_parse.c:1): Unknown shit 100600 (/secretmem (deleted))",
    "traced": "Error (compel/src/lib/infect.c:261): "
    "Unseizable non-zombie 6706 found, state S, err -1/10",
    "no_rlimit_capability": "Error (criu/cr-dump.c:389): "
    "Can't get rlimit 0: Operation not permitted",
    "terminal": "(00.01) Error (criu/tty.c:1830): "
    "tty: Found dangling tty with sid 1 pgid 1 (pts) on peer fd 0.",
    "shared_pid_namespace": "Error (criu/namespaces.c:1117): "
    "Can't dump a pid namespace without the process init",
    "old_kernel": "Error (criu/kcmp-ids.c:1): "
    "kcmp failed: pid (9 7) type 1 idx (0 0): Function not implemented",
    "no_room": "    12: Error (criu/image.c:1): Can't write to core-1.img: No space left on device",
    "address_gone": "pie: 1: Error (criu/sk-inet.c:1059): "
    "inet: Can't bind inet socket (id 3): Cannot assign requested address",
}


@pytest.mark.parametrize(("cause", "line"), LINES.items(), ids=LINES)
def test_the_cause_is_read_from_the_line(cause: str, line: str) -> None:
    log = f"{HARMLESS}\n{line}\nError (criu/cr-dump.c:1975): Dumping FAILED.\n"
    found = criu_errors.diagnose(log, HARMLESS)
    assert found.cause.name == cause
    assert found.line in line
    assert found.cause.remedy in str(found)


def test_the_harmless_line_is_never_the_reason() -> None:
    found = criu_errors.diagnose(HARMLESS, HARMLESS)
    assert found.cause.name == "unknown"
    assert "RLIMIT" not in found.line.replace(HARMLESS, "")


def test_what_is_not_known_is_told_in_criu_s_words() -> None:
    found = criu_errors.diagnose("Error (criu/x.c:1): something new\n")
    assert (found.cause.name, found.line) == ("unknown", "something new")


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        ("CRIU cannot be executed", "no_criu"),
        ("CRIU was ended: it did not answer in time", "timeout"),
        ("CRIU ended without an answer", "unknown"),
    ],
)
def test_the_monitors_words_count_where_criu_has_said_nothing(said: str, cause: str) -> None:
    assert criu_errors.diagnose("", said).cause.name == cause


def test_warnings_and_information_are_no_errors() -> None:
    assert criu_errors.error_lines("Warn  (criu/x.c:1): io_uring\n(00.1) io_uring\n") == []


def test_every_pattern_names_a_known_cause_and_every_cause_says_what_to_do() -> None:
    assert {name for _, name in criu_errors._PATTERNS} <= set(CAUSES)
    assert all(one.reason and one.remedy for one in CAUSES.values())
