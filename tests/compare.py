# SPDX-License-Identifier: Apache-2.0
"""Comparisons of long sequences whose failure is said in a line, not as a diff of thousands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import pytest

_SHOWN = 5


def assert_in_order(seen: Sequence[int], count: int) -> None:
    """Requires the numbers from 0 on, each once, in order."""
    __tracebackhide__ = True
    if list(seen) != list(range(count)):
        pytest.fail(_fault(seen, count))


def assert_same_bytes(received: bytes | bytearray, sent: bytes) -> None:
    """Requires every byte that was sent and no other."""
    __tracebackhide__ = True
    if received != sent:
        at = next(
            (
                at
                for at, (one, other) in enumerate(zip(received, sent, strict=False))
                if one != other
            ),
            min(len(received), len(sent)),
        )
        pytest.fail(f"{len(received)} bytes of {len(sent)} arrived, wrong from byte {at} on")


def _fault(seen: Sequence[int], count: int) -> str:
    times = Counter(seen)
    overtaken = [f"{after} after {before}" for before, after in pairwise(seen) if after < before]
    kinds = {
        "lost": [number for number in range(count) if number not in times],
        "doubled": [number for number, often in times.items() if often > 1],
        "not expected": [number for number in times if not 0 <= number < count],
        "out of order": overtaken,
    }
    said = [f"{len(found)} {kind} ({_first(found)})" for kind, found in kinds.items() if found]
    return f"of {count} numbers in a row, {len(seen)} were seen: {'; '.join(said)}"


def _first(found: Sequence[object]) -> str:
    shown = [*map(str, found[:_SHOWN]), *["..."] * (len(found) > _SHOWN)]
    return ", ".join(shown)
