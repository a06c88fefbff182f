# SPDX-License-Identifier: Apache-2.0
"""One event loop for all contract tests, an end to each, and the slow ones only on demand."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest


def _bounded(test: Callable[..., Awaitable[None]], at_most_s: float) -> Callable[..., object]:
    """A call that never ends must fail its test, not stop the run."""

    @functools.wraps(test)
    async def run(*args: object, **named: object) -> None:
        async with asyncio.timeout(at_most_s):
            await test(*args, **named)

    return run


HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks what lies here."""
    for item in items:
        if HERE not in item.path.parents:
            continue
        if inspect.iscoroutinefunction(getattr(item, "function", None)):
            # grpc.aio belongs to one loop; several in a process end in BlockingIOError noise.
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)
            item.obj = _bounded(item.obj, 500 if item.get_closest_marker("slow") else 60)  # type: ignore[attr-defined]
