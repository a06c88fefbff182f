# SPDX-License-Identifier: Apache-2.0
"""One event loop for all contract tests, and the slow ones only on demand."""

from __future__ import annotations

import inspect
import os
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what lies here."""
    for item in items:
        if HERE not in item.path.parents:
            continue
        if inspect.iscoroutinefunction(getattr(item, "function", None)):
            # grpc.aio belongs to one loop; several in a process end in BlockingIOError noise.
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)
        if item.get_closest_marker("slow") and os.environ.get("RUN_SLOW") != "1":
            item.add_marker(pytest.mark.skip(reason="slow; RUN_SLOW=1 runs it"))
