# SPDX-License-Identifier: Apache-2.0
"""The figures for Prometheus, as a scrape sees them, and an address that cannot be had."""

from __future__ import annotations

import socket
import urllib.request
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from shim.core.calls import CallLedger
from shim.core.methods import RUNTIME, label
from shim.core.registry import Registry, Sandbox
from shim.core.rules import RuleBook
from shim.rules.hold import Hold
from shim.server.interception import Interception
from shim.server.metrics import Metrics


def made(ledger: CallLedger | None = None, registry: Registry | None = None) -> Metrics:
    """Metrics of a service that is connected and has the hold rule."""
    recollection: Any = SimpleNamespace(connected=True)
    interception = Interception(RuleBook([Hold()]))
    interception.outcomes["hold"]["held"] = 3
    return Metrics(ledger or CallLedger(), registry or Registry(), recollection, interception)


def scraped(text: str) -> dict[tuple[str, ...], float]:
    """Values by name and label values; the order of labels has no meaning."""
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_calls_are_counted_by_method_and_code_and_their_time_is_split() -> None:
    ledger = CallLedger()
    metrics = made(ledger)
    for method, code in (("Version", "OK"), ("Version", "UNAVAILABLE"), ("Invented", "OK")):
        record = ledger.begin(RUNTIME + method, 0.0)
        record.backend_s = 0.75
        ledger.end(record, label(record.method), code, 1.0)
    ledger.begin(RUNTIME + "ExecSync", 0.0)
    values = scraped(generate_latest(metrics.collectors).decode())
    assert values["podferry_cri_calls_total", "OK", "Version"] == 1
    assert values["podferry_cri_calls_total", "UNAVAILABLE", "Version"] == 1
    assert values["podferry_cri_calls_total", "OK", "other"] == 1
    assert values["podferry_cri_call_seconds_sum", "Version", "podferry"] == 0.5
    assert values["podferry_cri_call_seconds_sum", "Version", "runtime"] == 1.5
    assert values["podferry_cri_calls_in_flight",] == 1


def test_the_rest_is_read_at_the_moment_of_the_scrape() -> None:
    registry = Registry()
    metrics = made(registry=registry)
    registry.rebuild([Sandbox("s1", "a", "b", "u")], [])
    values = scraped(generate_latest(metrics.collectors).decode())
    assert values["podferry_sandboxes",] == 1
    assert values["podferry_registry_complete",] == 1
    assert values["podferry_runtime_up",] == 1
    assert values["podferry_rule_outcomes_total", "held", "hold"] == 3
    assert values["podferry_rss_bytes",] > 1 << 20


def test_no_pod_is_a_label() -> None:
    """A label for each pod would grow without bound."""
    labels = {
        key
        for family in text_string_to_metric_families(generate_latest(made().collectors).decode())
        for sample in family.samples
        for key in sample.labels
    }
    assert labels <= {"method", "code", "part", "le", "rule", "outcome"}


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_they_are_served_over_http_until_closed(host: str) -> None:
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    try:
        with socket.socket(family) as free:
            free.bind((host.strip("[]"), 0))
            port = free.getsockname()[1]
    except OSError:
        pytest.skip(f"this machine has no {host}")
    metrics = made()
    assert metrics.listen(f"{host}:{port}")
    try:
        with urllib.request.urlopen(f"http://{host}:{port}/metrics", timeout=10) as answer:
            assert "podferry_runtime_up" in answer.read().decode()
    finally:
        metrics.close()
    successor = made()
    assert successor.listen(f"{host}:{port}"), "a successor takes the address at once"
    successor.close()
    metrics.close()


@pytest.mark.parametrize("address", ["192.0.2.1:1", f"{'x' * 64}.invalid:1"])
def test_an_address_that_cannot_be_had_is_said_and_stops_nothing(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert not made().listen(address)
    assert f"metrics not served address={address}" in caplog.text


def test_an_address_in_use_is_said_and_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert not made().listen(f"127.0.0.1:{taken.getsockname()[1]}")
    assert "metrics not served" in caplog.text


def test_none_are_served_where_none_are_wanted() -> None:
    metrics = made()
    assert metrics.listen("")
    metrics.close()
