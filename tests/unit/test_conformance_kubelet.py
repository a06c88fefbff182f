# SPDX-License-Identifier: Apache-2.0
"""What conformance runs read from others' output: kubelet's log and metrics, crictl's events."""

from __future__ import annotations

from tests.conformance.crictl import _concatenated
from tests.conformance.kubelet_api import samples
from tests.conformance.kubelet_process import cri_errors, not_ready

METRICS = """# HELP kubelet_runtime_operations_total Cumulative number of operations.
# TYPE kubelet_runtime_operations_total counter
kubelet_runtime_operations_total{operation_type="exec_sync"} 633
kubelet_runtime_operations_total{operation_type="version"} 1.2e+01
kubelet_runtime_operations_errors_total{operation_type="exec_sync"} 2
kubelet_running_pods 1
"""
UNAVAILABLE = (
    'E1124 02:49:49.708943 171 remote_runtime.go:636] "ExecSync cmd from runtime service failed"'
    ' err="rpc error: code = Unavailable desc = connection error"'
)
GONE = (
    'E1124 02:50:40.534798 13100 remote_runtime.go:569] "ContainerStatus from runtime service'
    ' failed" err="rpc error: code = NotFound desc = an error occurred"'
)
SKIPPING = 'E1124 02:50:20.1 1 kubelet.go:2500] "Skipping pod synchronization" err="{}"'


def test_samples_of_one_metric_only() -> None:
    found = dict((labels["operation_type"], value) for labels, value in samples(
        METRICS, "kubelet_runtime_operations_total"))  # fmt: skip
    assert found == {"exec_sync": 633.0, "version": 12.0}
    assert list(samples(METRICS, "kubelet_running_pods")) == [({}, 1.0)]


def test_a_container_that_is_gone_is_no_error() -> None:
    assert cri_errors([GONE, "I1124 all well", UNAVAILABLE]) == [UNAVAILABLE]


def test_the_node_is_not_ready_when_kubelet_says_so_and_not_at_its_own_start() -> None:
    at_start = SKIPPING.format(
        "[container runtime status check may not have completed yet,"
        " PLEG is not healthy: pleg has yet to be successful]"
    )
    down = SKIPPING.format("container runtime is down")
    stale = SKIPPING.format("PLEG is not healthy: pleg was last seen active 3m1s ago")
    assert not_ready([at_start]) == 0
    assert not_ready([at_start, down, stale]) == 2


def test_events_are_read_up_to_the_unfinished_one() -> None:
    assert _concatenated('{"a": 1}\n{"b":\n 2}\n{"c"') == [{"a": 1}, {"b": 2}]
    assert _concatenated("") == []
    assert _concatenated('{"a"') == []
