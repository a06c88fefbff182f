# SPDX-License-Identifier: Apache-2.0
"""What the tests of file transfer need: root, for owners and nodes, and the extension."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from shim import _native
from shim.errors import MissingFeature


@pytest.fixture(autouse=True)
def able() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: owners, devices and trusted attributes are set")
    try:
        _native.require()
    except MissingFeature as error:
        pytest.skip(str(error))


@pytest.fixture
def place() -> Iterator[Path]:
    # On a disk: a tmpfs has no attributes of users on older kernels, and /tmp often is one.
    made = Path(tempfile.mkdtemp(prefix="podferry-files-", dir="/var/tmp"))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
