# SPDX-License-Identifier: Apache-2.0
"""What the preflight finds in a survey, and what it does not take for an obstacle."""

from __future__ import annotations

import stat
from dataclasses import replace

import pytest

from shim.core import mounts
from shim.core.preflight import Node, OpenFile, Process, Survey, judge

SPACES = {"mnt": 1, "net": 2, "ipc": 3, "uts": 4, "pid": 5, "user": 6}
MOUNTS = mounts.parse(
    "10 1 0:1 / / rw - overlay overlay rw\n11 10 0:2 / /dev rw - tmpfs tmpfs rw\n"
)
SOCKET, FIFO, CHAR, FILE = (
    kind | 0o600 for kind in (stat.S_IFSOCK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFREG)
)


def survey(*files: OpenFile, **changes: object) -> Survey:
    """A container of one process."""
    init = Process(100, "init", (100, 1), namespaces=SPACES, files=files, resident_bytes=1 << 20)
    return replace(
        Survey("c", 100, Node(user_namespace=6), (init,), MOUNTS),
        **changes,  # type: ignore[arg-type]
    )


def causes(found: Survey) -> list[str]:
    """The names of what was found."""
    return [one.cause.name for one in judge(found).findings]


@pytest.mark.parametrize(
    "harmless",
    [
        OpenFile(1, "pipe:[5]", FIFO),
        OpenFile(2, "/dev/null", CHAR, mount_id=11),
        OpenFile(3, "socket:[7]", SOCKET, protocol="TCPv6"),
        OpenFile(4, "anon_inode:[eventpoll]", 0o600),
        OpenFile(5, "/data/file", FILE, mount_id=10),
        OpenFile(6, "/tmp/gone (deleted)", FILE, links=0, size_bytes=4096, mount_id=10),
        OpenFile(7, "/memfd:x (deleted)", FILE, links=0, mount_id=99),
    ],
    ids=lambda one: str(one.target),
)
def test_what_criu_dumps_is_no_obstacle(harmless: OpenFile) -> None:
    verdict = judge(survey(harmless))
    assert verdict.findings == ()
    assert verdict.can_sleep
    assert verdict.can_move


@pytest.mark.parametrize(
    ("cause", "one"),
    [
        ("io_uring", OpenFile(1, "anon_inode:[io_uring]", 0o600)),
        ("anonymous_file", OpenFile(1, "anon_inode:[userfaultfd]", 0o600)),
        ("mptcp", OpenFile(1, "socket:[1]", SOCKET, protocol="MPTCPv6")),
        ("socket_kind", OpenFile(1, "socket:[1]", SOCKET, protocol="AF_VSOCK")),
        ("device", OpenFile(1, "/dev/nvidia0", CHAR, mount_id=11)),
        ("deleted_file", OpenFile(1, "/x (deleted)", FILE, 0, 1 << 30, 10)),
        ("outside_file", OpenFile(1, "/host/file", FILE, mount_id=77)),
    ],
)
def test_a_descriptor_that_criu_cannot_dump_is_found(cause: str, one: OpenFile) -> None:
    verdict = judge(survey(one))
    assert [found.cause.name for found in verdict.findings] == [cause]
    assert not verdict.can_sleep
    assert "descriptor 1" in verdict.findings[0].where


def test_a_watch_is_told_but_does_not_block() -> None:
    verdict = judge(survey(OpenFile(1, "anon_inode:inotify", 0o600)))
    assert [found.cause.name for found in verdict.findings] == ["watched_path"]
    assert verdict.can_sleep


def test_what_is_wrong_with_the_container_as_a_whole_is_found() -> None:
    base = survey()
    (init,) = base.processes
    child = replace(init, pid=101, inside_pids=(101, 2), namespaces=SPACES | {"net": 9})
    assert causes(replace(base, terminal=True)) == ["terminal"]
    assert causes(replace(base, strangers=(55,))) == ["exec_session"]
    assert causes(replace(base, node=Node(user_namespace=1))) == ["user_namespace"]
    assert causes(replace(base, mounts=(*MOUNTS, MOUNTS[1]))) == ["hidden_mount"]
    assert causes(replace(base, processes=(init, child))) == ["nested_namespace"]
    shared = replace(init, inside_pids=(100, 7))
    assert causes(replace(base, processes=(shared,))) == ["shared_pid_namespace"]


def test_what_is_wrong_with_a_process_is_found() -> None:
    base = survey()
    (init,) = base.processes
    assert causes(replace(base, processes=(replace(init, traced=True),))) == ["traced"]
    assert causes(replace(base, processes=(replace(init, mapped=("[uprobes]",)),))) == ["uprobes"]
    other = replace(init, uid=1000)
    assert causes(replace(base, processes=(other,))) == []
    poor = Node(user_namespace=6, may_read_limits=False)
    assert causes(replace(base, processes=(other,), node=poor)) == ["no_rlimit_capability"]


def test_more_memory_is_expected_to_take_longer() -> None:
    small = survey()
    (init,) = small.processes
    large = replace(small, processes=(replace(init, resident_bytes=1 << 30),))
    assert judge(large).expected_freeze_ms > judge(small).expected_freeze_ms + 500


def test_equal_cpus_have_equal_labels() -> None:
    one = survey(node=Node(6, cpu_features=("avx", "sse")))
    other = survey(node=Node(6, cpu_features=("avx", "avx512", "sse")))
    assert judge(one).cpu_label == judge(survey(node=one.node)).cpu_label
    assert judge(one).cpu_label != judge(other).cpu_label
