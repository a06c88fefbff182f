# SPDX-License-Identifier: Apache-2.0
"""Loads the fixture modules; one whose own needs are absent is left out and said so."""

from __future__ import annotations

import importlib

import pytest

_MODULES = ("tests.fix_contract", "tests.fix_nodes")


pytest.register_assert_rewrite(*_MODULES)


def _importable(names: tuple[str, ...]) -> tuple[list[str], list[str]]:
    found, missing = [], []
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            missing.append(f"{name} ({error})")
        else:
            found.append(name)
    return found, missing


pytest_plugins, _missing = _importable(_MODULES)


def pytest_report_header() -> list[str]:
    """Names the fixtures that could not be had."""
    return [f"fixtures left out: {', '.join(_missing)}"] if _missing else []
