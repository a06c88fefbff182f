# SPDX-License-Identifier: Apache-2.0
"""The binding: errors, absence of the extension, and the proofs as Python sees them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from shim import _native
from shim.errors import NativeError

pytestmark = pytest.mark.usefixtures("extension")


def test_a_failure_carries_message_and_errno() -> None:
    with pytest.raises(NativeError, match="is no kind") as caught:
        _native.prove_link_kind("a kind whose name is too long")
    assert caught.value.errno_value == 22


def test_check_passes_on_what_is_no_failure() -> None:
    assert _native.check(0, None) == 0
    assert _native.check(7, None) == 7


@pytest.mark.parametrize("feature", list(_native.Feature))
def test_every_proof_ends_in_yes_or_a_reason(feature: _native.Feature) -> None:
    try:
        _native.prove(feature)
    except NativeError as error:
        assert error.what
        assert error.errno_value > 0


def open_descriptors() -> list[str]:
    return sorted(path.name for path in Path("/proc/self/fd").iterdir())


def test_proofs_leave_no_descriptor() -> None:
    before = open_descriptors()
    for feature in _native.Feature:
        try:
            _native.prove(feature)
        except NativeError:
            continue
    assert open_descriptors() == before


def test_shim_is_imported_without_the_extension_and_says_so_when_it_is_needed() -> None:
    # A finder that hides the extension, in a process of its own: what is loaded stays loaded here.
    script = """
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name == "shim._native_ffi":
            raise ImportError("hidden")
sys.meta_path.insert(0, Hide())
from shim import _native
from shim.errors import MissingFeature
try:
    _native.prove(_native.Feature.PTRACE)
except MissingFeature as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=60
    )
    assert "shim._native_ffi: the native library cannot be loaded: hidden" in done.stdout
    assert "docs/doctor.md" in done.stdout
