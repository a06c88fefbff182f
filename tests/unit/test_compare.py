# SPDX-License-Identifier: Apache-2.0
"""What the comparisons of the tests say when they fail."""

from __future__ import annotations

import pytest

from tests.compare import assert_in_order, assert_same_bytes


@pytest.mark.parametrize(
    ("seen", "count", "said"),
    [
        ([0, 2, 1], 3, "3 were seen: 1 out of order (1 after 2)"),
        ([0, 2], 3, "2 were seen: 1 lost (1)"),
        ([0, 1, 1, 2], 3, "4 were seen: 1 doubled (1)"),
        ([0, 1, 7], 2, "3 were seen: 1 not expected (7)"),
        ([], 9, "0 were seen: 9 lost (0, 1, 2, 3, 4, ...)"),
    ],
)
def test_what_is_wrong_with_a_sequence(seen: list[int], count: int, said: str) -> None:
    with pytest.raises(pytest.fail.Exception) as failed:
        assert_in_order(seen, count)
    assert str(failed.value) == f"of {count} numbers in a row, {said}"


def test_a_sequence_in_order() -> None:
    assert_in_order([], 0)
    assert_in_order(list(range(100)), 100)


@pytest.mark.parametrize(
    ("received", "said"),
    [
        (b"abX", "3 bytes of 3 arrived, wrong from byte 2 on"),
        (b"ab", "2 bytes of 3 arrived, wrong from byte 2 on"),
    ],
)
def test_where_bytes_differ(received: bytes, said: str) -> None:
    assert_same_bytes(b"abc", b"abc")
    with pytest.raises(pytest.fail.Exception) as failed:
        assert_same_bytes(received, b"abc")
    assert str(failed.value) == said
