# SPDX-License-Identifier: Apache-2.0
"""The generated stubs are those of protos/, and a stale, missing or strange one is noticed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cri_proto import generate


def test_the_stubs_are_current() -> None:
    assert generate.stale() == []


def test_a_stub_that_differs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for stub in generate.HERE.glob("*_pb2*.py*"):
        shutil.copy(stub, tmp_path)
    (tmp_path / "control_pb2.py").write_text("# edited by hand\n")
    (tmp_path / "runtime_v1_pb2.pyi").unlink()
    (tmp_path / "left_over_pb2.py").write_text("")
    monkeypatch.setattr(generate, "HERE", tmp_path)
    assert generate.stale() == ["control_pb2.py", "left_over_pb2.py", "runtime_v1_pb2.pyi"]


def test_the_command_line_says_usage_for_what_it_does_not_know() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "cri_proto.generate", "--nonsense"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode == 2
    assert "--check" in ended.stderr
