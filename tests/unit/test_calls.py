# SPDX-License-Identifier: Apache-2.0
"""The ledger counts every call once, tells its watchers, and does not grow."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim.core.calls import RECENT, CallLedger, CallRecord, percentile
from shim.core.methods import RUNTIME

VERSION = RUNTIME + "Version"
samples = st.lists(st.floats(0, 1e6), min_size=1, max_size=200).map(deque)


@pytest.mark.parametrize(
    ("values", "fraction", "expected"),
    [
        ([], 0.5, 0.0),
        ([7.0], 0.5, 7.0),
        ([7.0], 0.99, 7.0),
        ([3.0, 1.0, 2.0], 0.5, 2.0),
        ([float(n) for n in range(100)], 0.5, 50.0),
        ([float(n) for n in range(100)], 0.99, 99.0),
        ([float(n) for n in range(1000)], 0.99, 990.0),
        ([1.0, 2.0], 1.0, 2.0),
        ([2.0, 1.0], 0.0, 1.0),
    ],
)
def test_percentiles(values: list[float], fraction: float, expected: float) -> None:
    assert percentile(deque(values), fraction) == expected


@given(samples, st.floats(0, 1))
def test_that_fraction_lies_at_or_below_a_percentile(values: deque[float], fraction: float) -> None:
    found = percentile(values, fraction)
    assert found in values
    assert sum(v <= found for v in values) >= fraction * len(values)


@given(samples, st.floats(0, 1), st.floats(0, 1))
def test_percentiles_never_fall(values: deque[float], one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert percentile(values, low) <= percentile(values, high)


def test_a_call_is_in_flight_until_it_ends() -> None:
    ledger = CallLedger()
    first = ledger.begin(VERSION, 10.0)
    second = ledger.begin(VERSION, 11.0)
    assert first.call_id != second.call_id
    assert set(ledger.in_flight) == {first.call_id, second.call_id}
    ledger.end(first, "Version", "OK", 10.5)
    assert set(ledger.in_flight) == {second.call_id}
    assert (first.took_s, first.code) == (0.5, "OK")
    assert ledger.total == 2


def test_figures_split_ours_from_the_runtimes_and_from_wanted_waiting() -> None:
    ledger = CallLedger()
    record = ledger.begin(VERSION, 0.0)
    record.backend_s, record.held_s = 1.0, 5.0
    ledger.end(record, "Version", "OK", 6.25)
    figures = ledger.methods["Version"]
    assert list(figures.ours_s) == [0.25]
    assert list(figures.backend_s) == [1.0]


def test_ours_is_never_below_nothing() -> None:
    record = CallRecord(1, VERSION, 0.0, backend_s=2.0, took_s=1.0)
    assert record.ours_s == 0.0


def test_everything_but_ok_is_an_error() -> None:
    ledger = CallLedger()
    for code in ("OK", "CANCELLED", "NOT_FOUND", "OK"):
        ledger.end(ledger.begin(VERSION, 0.0), "Version", code, 1.0)
    assert (ledger.methods["Version"].calls, ledger.methods["Version"].errors) == (4, 2)


def test_streams_count_but_their_length_is_no_latency() -> None:
    ledger = CallLedger()
    record = ledger.begin(RUNTIME + "GetContainerEvents", 0.0, stream=True)
    ledger.end(record, "GetContainerEvents", "OK", 3600.0)
    assert ledger.methods["GetContainerEvents"].calls == 1
    assert not ledger.methods["GetContainerEvents"].ours_s


def test_old_samples_are_dropped() -> None:
    ledger = CallLedger()
    for _ in range(RECENT + 100):
        ledger.end(ledger.begin(VERSION, 0.0), "Version", "OK", 1.0)
    assert len(ledger.methods["Version"].ours_s) == RECENT
    assert ledger.methods["Version"].calls == RECENT + 100
    assert ledger.in_flight == {}


def test_watchers_see_each_call_begin_and_end() -> None:
    ledger = CallLedger()
    seen: list[tuple[int, bool, str]] = []
    unwatch = ledger.watch(lambda record, ended: seen.append((record.call_id, ended, record.code)))
    record = ledger.begin(VERSION, 0.0)
    ledger.end(record, "Version", "OK", 1.0)
    unwatch()
    ledger.end(ledger.begin(VERSION, 2.0), "Version", "OK", 3.0)
    assert seen == [(record.call_id, False, ""), (record.call_id, True, "OK")]


def test_one_of_several_watchers_can_go() -> None:
    ledger = CallLedger()
    first: list[bool] = []
    second: list[bool] = []
    unwatch = ledger.watch(lambda record, ended: first.append(ended))
    ledger.watch(lambda record, ended: second.append(ended))
    unwatch()
    ledger.begin(VERSION, 0.0)
    assert (first, second) == ([], [False])


def test_a_watcher_that_breaks_costs_neither_the_call_nor_other_watchers() -> None:
    failures: list[Exception] = []
    seen: list[bool] = []
    ledger = CallLedger(failures.append)
    ledger.watch(lambda record, ended: 1 / 0)  # type: ignore[arg-type]
    ledger.watch(lambda record, ended: seen.append(ended))
    ledger.end(ledger.begin(VERSION, 0.0), "Version", "OK", 1.0)
    assert seen == [False, True]
    assert [type(error) for error in failures] == [ZeroDivisionError] * 2
    assert ledger.in_flight == {}


def test_open_event_streams_do_not_keep_a_retired_process() -> None:
    ledger = CallLedger()
    ledger.begin(RUNTIME + "GetContainerEvents", 0.0, stream=True)
    ledger.begin(RUNTIME + "ExecSync", 0.0)
    assert len(ledger.in_flight) == 2
    assert ledger.finite_in_flight() == 1
