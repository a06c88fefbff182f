# SPDX-License-Identifier: Apache-2.0
"""The service's figures for Prometheus: how they are counted, and the HTTP endpoint."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Counter, Histogram, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from shim.core import methods
from shim.core.calls import CallLedger, CallRecord
from shim.core.registry import Registry
from shim.runtime.recollection import Recollection
from shim.server.interception import Interception

logger = logging.getLogger(__name__)

# Ours lies around a millisecond, RunPodSandbox around 200 ms, a pull of an image around minutes.
_BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.2, 1.0, 5.0, 30.0, 120.0)


class Metrics:
    """Counts calls as they end and reads everything else when it is asked for.

    Args:
        ledger: whose calls are counted.
        registry: how much is remembered.
        recollection: whether the runtime is connected.
        interception: what the rules did.
    """

    def __init__(
        self,
        ledger: CallLedger,
        registry: Registry,
        recollection: Recollection,
        interception: Interception,
    ) -> None:
        self._ledger = ledger
        self._registry = registry
        self._recollection = recollection
        self._interception = interception
        self.collectors = CollectorRegistry()
        self.collectors.register(self)
        self._calls = Counter(
            "podferry_cri_calls", "CRI calls ended.", ["method", "code"], registry=self.collectors
        )
        self._seconds = Histogram(
            "podferry_cri_call_seconds",
            "Time of unary CRI calls, split into what podferry added and what the runtime took.",
            ["method", "part"],
            buckets=_BUCKETS_S,
            registry=self.collectors,
        )
        self._endpoint: tuple[WSGIServer, threading.Thread] | None = None
        ledger.watch(self._on_call)

    def _on_call(self, record: CallRecord, ended: bool) -> None:
        if not ended:
            return
        name = methods.label(record.method)
        self._calls.labels(name, record.code).inc()
        if not record.stream:
            self._seconds.labels(name, "podferry").observe(record.ours_s)
            self._seconds.labels(name, "runtime").observe(record.backend_s)

    def collect(self) -> Iterable[Metric]:
        """What is read at the moment of a scrape (the collector interface of prometheus-client)."""
        import psutil  # see shim.server.deferred

        gauges = (
            ("podferry_cri_calls_in_flight", "CRI calls under way.", len(self._ledger.in_flight)),
            (
                "podferry_runtime_up",
                "Whether the runtime is connected.",
                self._recollection.connected,
            ),
            ("podferry_sandboxes", "Sandboxes remembered.", len(list(self._registry.sandboxes))),
            ("podferry_containers", "Containers remembered.", len(list(self._registry.containers))),
            ("podferry_registry_complete", "Whether the memory is true.", self._registry.complete),
            ("podferry_rss_bytes", "Resident memory.", psutil.Process().memory_info().rss),
        )
        for name, text, value in gauges:
            yield GaugeMetricFamily(name, text, value=float(value))
        outcomes = CounterMetricFamily(
            "podferry_rule_outcomes", "What rules decided.", labels=["rule", "outcome"]
        )
        for rule, counts in self._interception.outcomes.items():
            for outcome, count in list(counts.items()):  # calls go on while this thread reads
                outcomes.add_metric([rule, outcome], count)
        yield outcomes

    def listen(self, address: str) -> bool:
        """Serves the figures over HTTP, in a thread of its own.

        Args:
            address: "host:port"; "" serves nothing.

        Returns:
            Whether that was possible; metrics must not keep the CRI socket from being served.
        """
        host, _, port = address.rpartition(":")
        if not host:
            return True
        try:
            host = host.removeprefix("[").removesuffix("]")  # of an IPv6 address
            self._endpoint = start_http_server(int(port), host, self.collectors)
        except (OSError, UnicodeError) as error:  # UnicodeError: a label too long for a host name
            logger.warning("metrics not served address=%s reason=%r", address, str(error))
            return False
        return True

    def close(self) -> None:
        """Gives the HTTP address up, for a successor to take."""
        if self._endpoint:
            server, thread = self._endpoint
            self._endpoint = None
            server.shutdown()
            server.server_close()
            thread.join()
