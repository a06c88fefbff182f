# SPDX-License-Identifier: Apache-2.0
"""Loads the fixture modules; one whose own needs are absent is left out and said so.

Where the output is no terminal's, a failed test and its reason fit into one line of the summary.
"""

from __future__ import annotations

import importlib
import os
import sys

import pytest

_LOG_COLUMNS = 240
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


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Makes lines longer than the 80 columns that a pipe is thought to have."""
    if not sys.stdout.isatty():
        config.get_terminal_writer().fullwidth = _LOG_COLUMNS


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leaves out what is slow, unless it is asked for."""
    for item in items:
        if item.get_closest_marker("slow") and os.environ.get("RUN_SLOW") != "1":
            item.add_marker(pytest.mark.skip(reason="slow; RUN_SLOW=1 runs it"))


def pytest_report_header() -> list[str]:
    """Names the fixtures that could not be had."""
    return [f"fixtures left out: {', '.join(_missing)}"] if _missing else []
