# SPDX-License-Identifier: Apache-2.0
"""Builds the C library with the address and undefined-behaviour sanitizers and runs its tests."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILD_TIMEOUT_S = 1800  # some minutes, on a crowded machine several times as long


@pytest.mark.slow
def test_the_c_tests_pass_under_the_sanitizers(tmp_path: Path) -> None:
    for tool in ("cmake", "cc", "clang", "bpftool"):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool} (see scripts/apt-packages.txt)")
    for command in (
        ["cmake", "-S", str(ROOT), "-B", str(tmp_path)],
        ["cmake", "--build", str(tmp_path), "--parallel", "2"],
        ["ctest", "--test-dir", str(tmp_path), "--output-on-failure", "--no-tests=error"],
    ):
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S
        )
        failed = [line.strip() for line in done.stdout.splitlines() if "***" in line]
        said = done.stdout[-8000:] + done.stderr[-8000:]
        assert done.returncode == 0, f"{command[:2]} {'; '.join(failed)}\n{said}"
