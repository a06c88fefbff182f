# SPDX-License-Identifier: Apache-2.0
"""Tests of the C library as Python sees it are skipped where it is not built."""

from __future__ import annotations

import pytest

from shim import _native
from shim.errors import MissingFeature


@pytest.fixture(scope="session")
def extension() -> None:
    """Needs the library."""
    try:
        _native.require()
    except MissingFeature as error:
        pytest.skip(str(error))
