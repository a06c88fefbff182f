# SPDX-License-Identifier: Apache-2.0
"""CRIU is asked about the kernel once, by the program that monitors use."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from shim.checkpoint import features


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A CRIU that writes down what it is asked, in front of an empty cache."""
    program, words = tmp_path / "criu", tmp_path / "words"
    program.write_text(f'#!/bin/sh\necho "$@" >> {words}\n: > {tmp_path}/cache\n')
    program.chmod(0o755)
    (tmp_path / "runtime.conf").write_text(f"unmanaged kube-system\ncriu {program}\n")
    monkeypatch.setattr(features, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(features, "MONITOR_SETTINGS", tmp_path / "runtime.conf")
    return words


def test_it_is_asked_until_it_knows(asked: Path) -> None:
    asyncio.run(features.find_out())
    asyncio.run(features.find_out())
    assert asked.read_text() == "check --feature uffd\n"


def test_a_node_without_criu_is_no_failure(
    asked: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "runtime.conf").write_text("criu /nonexistent/criu\n")
    asyncio.run(features.find_out())
    (tmp_path / "runtime.conf").unlink()
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    assert features.program() is None
    asyncio.run(features.find_out())
    assert not asked.exists()
