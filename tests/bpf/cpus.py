# SPDX-License-Identifier: Apache-2.0
"""Which CPU a test's thread runs on, where that decides."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

CPUS = sorted(os.sched_getaffinity(0))


@contextmanager
def on_cpu(number: int) -> Iterator[None]:
    """This thread alone, and what it starts, on one of the CPUS."""
    everywhere = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {CPUS[number]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, everywhere)
