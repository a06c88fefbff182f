# SPDX-License-Identifier: Apache-2.0
"""The rule book finds rules by method and in order; a broken rule stops only who asked for us."""

from __future__ import annotations

import pytest

from shim.core.methods import IMAGE, RUNTIME, STREAMING, UNARY, label, short
from shim.core.policy import SILENT, Wishes
from shim.core.registry import NOBODY, Sandbox, Subject
from shim.core.rules import PASS, BaseRule, Call, Pass, RuleBook, fails_closed

START = RUNTIME + "StartContainer"
STOP = RUNTIME + "StopContainer"


class Named(BaseRule):
    """A rule of a name for some methods."""

    def __init__(self, name: str, *methods: str) -> None:
        self.name = name
        self.methods = methods


def test_rules_are_asked_in_the_order_of_the_book() -> None:
    first, second, third = Named("b", START), Named("a", STOP), Named("c", STOP, START)
    book = RuleBook([first, second, third])
    assert book.of(START) == (first, third)
    assert book.of(STOP) == (second, third)
    assert book.methods == {START, STOP}


def test_a_method_nobody_asked_for_has_no_rules() -> None:
    assert RuleBook([Named("a", START)]).of(IMAGE + "PullImage") == ()
    assert RuleBook([]).of(START) == ()


def test_two_rules_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="share a name"):
        RuleBook([Named("hold", START), Named("hold", STOP)])


def test_the_base_rule_does_nothing() -> None:
    call = Call(1, START, object(), None)
    rule = BaseRule()
    assert rule.on_request(call) is PASS
    assert rule.on_reply(call, object()) == Pass()
    rule.on_error(call, 14)
    assert call.subject is NOBODY


@pytest.mark.parametrize(
    ("wishes", "closed"),
    [
        (None, False),
        (SILENT, False),
        (Wishes(managed=False), False),
        (Wishes(managed=True), True),
        (Wishes(migration="m"), True),
        (Wishes(unknown=("podferry.dev/new",)), False),
    ],
)
def test_who_is_told_of_a_broken_rule(wishes: Wishes | None, closed: bool) -> None:
    known = Subject(Sandbox("s", "ns", "pod", "uid", wishes=wishes)) if wishes else NOBODY
    assert fails_closed(Call(1, START, object(), None, known)) is closed


def test_methods_are_counted_as_cri_has_them() -> None:
    """kubernetes/cri-api master, August 2026: 37 + 6, the pod checkpoint methods among them."""
    of_runtime = {m for m in UNARY | STREAMING if m.startswith(RUNTIME)}
    of_images = {m for m in UNARY | STREAMING if m.startswith(IMAGE)}
    assert (len(of_runtime), len(of_images)) == (37, 6)
    assert not UNARY & STREAMING
    assert len(STREAMING) == 7


def test_invented_methods_share_one_label() -> None:
    assert label(START) == "StartContainer"
    assert label("/evil/StartContainer") == "other"
    assert label(RUNTIME + "GetContainerEvents") == "GetContainerEvents"
    assert short("no slash") == "no slash"
