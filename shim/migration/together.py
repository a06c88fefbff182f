# SPDX-License-Identifier: Apache-2.0
"""Does several things at once so that none of them is under way any more when one has failed.

What follows a failure closes streams and lets tasks go; native code or CRIU still at work on them
would use what is gone, or stop a task again behind the undo's back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

T = TypeVar("T")


async def together(*works: Awaitable[Any]) -> list[Any]:
    """The results of all, in their order.

    Raises:
        BaseException: the first failure, once the others were called off and have ended.
    """
    tasks = [asyncio.ensure_future(one) for one in works]
    if not tasks:
        return []
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for one in tasks:
            one.cancel()
        await asyncio.wait(tasks)
    failed = [one for one in tasks if not one.cancelled() and one.exception() is not None]
    return [one.result() for one in failed or tasks]


async def to_its_end(work: Awaitable[T], call_off: Callable[[], object] | None = None) -> T:
    """The result of something that cannot be left alone: whoever cancels it waits for its end.

    Args:
        work: in a thread, or asked of a monitor.
        call_off: makes it end sooner.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if call_off is not None:
            call_off()
        await asyncio.wait({task})
        raise
