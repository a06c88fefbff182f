# SPDX-License-Identifier: Apache-2.0
"""The judgement over critest's reports: what is read from them, and what fails a round."""

from __future__ import annotations

import re

import pytest

from shim.errors import InvalidInput
from tests.conformance.compare import (
    Outcome,
    Report,
    Spec,
    always,
    compare,
    count,
    focus,
    names,
    parse,
)

PASSED, FAILED = Spec(Outcome.PASSED), Spec(Outcome.FAILED, reason="boom")
SKIPPED = Spec(Outcome.SKIPPED)

REPORT = """<?xml version="1.0" encoding="UTF-8"?>
<testsuites tests="5" failures="1" time="12.5">
  <testsuite name="CRI validation" tests="5">
    <testcase name="[BeforeSuite]" status="passed" time="0.1"></testcase>
    <testcase name="[It] [k8s.io] Streaming runtime should support attach [Conformance]"
        classname="CRI validation" status="passed" time="5.25"></testcase>
    <testcase name="[It] [k8s.io] AppArmor runtime should deny" status="skipped" time="0">
      <skipped message="skipped - AppArmor is not
        there"></skipped>
    </testcase>
    <testcase name="[It] [k8s.io] Container runtime should stop" status="failed" time="1.5">
      <failure message="Expected &lt;int&gt;: 1" type="failed">at container.go:1</failure>
      <system-err>long</system-err>
    </testcase>
    <testcase name="[It] [k8s.io] Pod interrupted" status="interrupted" time="3"></testcase>
    <testcase name="[ReportAfterSuite] write" status="passed" time="0.1"></testcase>
  </testsuite>
</testsuites>
"""


def test_reads_every_outcome_with_time_and_reason() -> None:
    specs = parse(REPORT, where="report.xml")
    assert specs == {
        "[k8s.io] Streaming runtime should support attach [Conformance]": Spec(
            Outcome.PASSED, 5.25
        ),
        "[k8s.io] AppArmor runtime should deny": Spec(
            Outcome.SKIPPED, 0.0, "skipped - AppArmor is not there"
        ),
        "[k8s.io] Container runtime should stop": Spec(Outcome.FAILED, 1.5, "Expected <int>: 1"),
        "[k8s.io] Pod interrupted": Spec(Outcome.FAILED, 3.0),
    }


def test_a_failed_node_around_the_specs_is_not_overlooked() -> None:
    text = REPORT.replace('"[BeforeSuite]" status="passed"', '"[BeforeSuite]" status="failed"')
    assert parse(text, where="r")["[BeforeSuite]"].outcome is Outcome.FAILED


def test_the_worse_of_two_specs_with_one_name_counts() -> None:
    case = '<testcase name="[It] same" status="{}"/>'
    for statuses in (("passed", "failed"), ("failed", "passed"), ("skipped", "failed")):
        text = f"<testsuites>{''.join(case.format(one) for one in statuses)}</testsuites>"
        assert parse(text, where="r")["same"].outcome is Outcome.FAILED


@pytest.mark.parametrize("text", ["", "<testsuites>", "not xml"])
def test_a_broken_report_is_named(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"junit\.xml"):
        parse(text, where="junit.xml")


def test_a_report_without_specs_is_no_success() -> None:
    with pytest.raises(InvalidInput, match="no spec"):
        parse("<testsuites><testsuite/></testsuites>", where="junit.xml")


def test_equal_reports_pass() -> None:
    report: Report = {"a": PASSED, "b": FAILED, "c": SKIPPED}
    verdict = compare(report, dict(report))
    assert verdict.passes
    assert not verdict.lost
    assert not verdict.other


@pytest.mark.parametrize("through", [FAILED, SKIPPED, None])
def test_what_passes_directly_must_pass_through_the_shim(through: Spec | None) -> None:
    shim: Report = {"b": PASSED} | ({"a": through} if through else {})
    verdict = compare({"a": PASSED, "b": PASSED}, shim)
    assert not verdict.passes
    (lost,) = verdict.lost
    assert (lost.name, lost.direct) == ("a", PASSED)
    assert lost.through.outcome is (through.outcome if through else Outcome.ABSENT)


@pytest.mark.parametrize("direct", [FAILED, SKIPPED, None])
def test_what_passes_only_through_the_shim_is_told_and_fails_nothing(direct: Spec | None) -> None:
    verdict = compare({"a": direct} if direct else {}, {"a": PASSED})
    assert verdict.passes
    assert [one.name for one in verdict.other] == ["a"]


def test_what_fails_directly_may_fail_or_skip_through_the_shim() -> None:
    assert compare({"a": FAILED, "b": FAILED}, {"a": FAILED, "b": SKIPPED}).passes


def test_differences_come_in_order_of_name() -> None:
    verdict = compare({"c": PASSED, "a": PASSED, "b": PASSED}, {})
    assert [one.name for one in verdict.lost] == ["a", "b", "c"]


def test_times_do_not_make_a_difference() -> None:
    assert compare({"a": Spec(Outcome.PASSED, 1)}, {"a": Spec(Outcome.PASSED, 90)}).passes


def test_counts_and_sets() -> None:
    report: Report = {"a": PASSED, "b": PASSED, "c": FAILED, "d": SKIPPED}
    assert count(report)[Outcome.PASSED] == 2
    assert count(report)[Outcome.ABSENT] == 0
    assert names(report, Outcome.PASSED) == {"a", "b"}
    assert always([report, {"a": PASSED, "b": FAILED}], Outcome.PASSED) == {"a"}
    assert always([], Outcome.PASSED) == frozenset()


def test_a_focus_matches_the_specs_as_ginkgo_sees_them() -> None:
    serial = "[k8s.io] NRI Stop contract should handle (a.b) [Serial]"
    plain = "[k8s.io] Container OOM runtime should output [Conformance]"
    pattern = re.compile(focus([serial, plain]))
    assert pattern.search("CRI validation [k8s.io] NRI Stop contract should handle (a.b)")
    assert pattern.search(f"CRI validation {plain}")
    assert not pattern.search("CRI validation [k8s.io] NRI Stop contract should handle (a-b)")
    assert not pattern.search("CRI validation [k8s.io] Container OOM")
