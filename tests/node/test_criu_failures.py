# SPDX-License-Identifier: Apache-2.0
"""Nodes on which CRIU cannot do its work: each failure is told in plain words, the pod runs on."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.node.test_sleep import Sleepers, front_node, settings, sleepers
from tests.testbed.node import Node

__all__ = ["front_node", "settings", "sleepers"]

CONF, WRAPPER = "/etc/podferry/runtime.conf", "/run/podferry-test-criu"
FEATURES = "/run/criu.kdat"  # what CRIU has found out about the kernel
SMALL = "/run/small"
FEW_FILES = f'[sleep]\nimages_dir = "{SMALL}/images"\n'

# As on a kernel without one system call: it is answered by ENOSYS from here on (seccomp(2)).
LACKING = """#!/usr/bin/python3
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
code = [(0x20, 0, 0, 0), (0x15, 0, 1, %d), (0x06, 0, 0, 0x50026), (0x06, 0, 0, 0x7FFF0000)]
text = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *one) for one in code))
program = ctypes.create_string_buffer(struct.pack("@HxxxxxxQ", len(code), ctypes.addressof(text)))
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program) == 0
os.execv("/usr/sbin/criu", ["criu", *sys.argv[1:]])
"""
KCMP = 312  # asm/unistd_64.h


@pytest.fixture
def replaced_criu(front_node: Node) -> Iterator[Callable[[str], None]]:
    """Puts a script in CRIU's place for containers that are made from then on."""

    def replace(script: str) -> None:
        if script:
            front_node.write(WRAPPER, script, 0o755)
        front_node.write(CONF, f"criu {WRAPPER}\n")
        front_node.path(FEATURES).unlink(missing_ok=True)

    try:
        yield replace
    finally:
        for path in (CONF, WRAPPER, FEATURES):
            front_node.path(path).unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("", b"CRIU is not installed"),
        (LACKING % KCMP, b"the kernel lacks a feature"),
        ("#!/bin/sh\nexit 1\n", b"CRIU ended without an answer"),
    ],
    ids=["absent", "old-kernel", "broken"],
)
def test_a_node_that_is_not_able_says_why(
    replaced_criu: Callable[[str], None], sleepers: Sleepers, script: str, words: bytes
) -> None:
    replaced_criu(script)
    pod = sleepers.redis()
    result = sleepers.command("sleep", "redis")
    assert result.status == 1
    assert words in result.stderr, result.stderr.decode()
    assert sleepers.state(pod)["state"] == "running"
    assert sleepers.ask(pod, "PING") == "+PONG"
    assert sleepers.left() == []


@pytest.mark.parametrize("settings", [FEW_FILES])
def test_a_place_that_fills_in_mid_dump_is_told(sleepers: Sleepers) -> None:
    pod = sleepers.redis()
    sleepers.node.exec(["mkdir", "-p", SMALL])
    # Room for the bytes, as the preflight sees, and none for the files.
    options = "size=512m,nr_inodes=12"
    sleepers.node.exec(["mount", "-t", "tmpfs", "-o", options, "small", SMALL])
    try:
        result = sleepers.command("sleep", "redis")
        assert result.status == 1
        assert b"no room for the images" in result.stderr, result.stderr.decode()
        assert sleepers.ask(pod, "PING") == "+PONG"
        assert list(sleepers.node.path(f"{SMALL}/images").iterdir()) == []
    finally:
        sleepers.node.exec(["umount", SMALL])
