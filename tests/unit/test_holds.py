# SPDX-License-Identifier: Apache-2.0
"""Holds: whom they concern, when they end, and that no call waits for a hold that has ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim.core import rules
from shim.core.holds import HOLDABLE, LONGEST_S, Holds
from shim.core.methods import RUNTIME
from shim.core.registry import NOBODY, Container, Sandbox, Subject
from shim.core.rules import PASS
from shim.errors import InvalidInput, NotFound
from shim.rules.hold import Hold

START = ("StartContainer",)
WEB = Sandbox("s1", "shop", "web", "uid")


def subject(container: str | None = "app", sandbox: Sandbox | None = WEB) -> Subject:
    """shop/web, one of its containers."""
    return Subject(sandbox, Container("c", "s1", container) if container else None)


# ---- the decision


@pytest.mark.parametrize(
    ("held_container", "method", "about", "concerned"),
    [
        ("", "StartContainer", subject(), True),
        ("", "StartContainer", subject(None), True),
        ("", "StopContainer", subject(), False),
        ("", "StartContainer", subject(sandbox=Sandbox("s", "shop", "web2", "u")), False),
        ("", "StartContainer", subject(sandbox=Sandbox("s", "other", "web", "u")), False),
        ("", "StartContainer", NOBODY, False),
        ("app", "StartContainer", subject(), True),
        ("app", "StartContainer", subject("sidecar"), False),
        ("app", "StartContainer", subject(None), False),
    ],
)
def test_whom_a_hold_concerns(
    held_container: str, method: str, about: Subject, concerned: bool
) -> None:
    holds = Holds()
    made = holds.add("shop/web", held_container, START, 10, 0)
    assert holds.of(method, about) is (made if concerned else None)


@pytest.mark.parametrize(
    ("pod", "methods", "at_most_s", "wanted"),
    [
        ("web", START, 10, "'namespace/name'"),
        ("/web", START, 10, "'namespace/name'"),
        ("shop/", START, 10, "'namespace/name'"),
        ("", START, 10, "'namespace/name'"),
        ("shop/web/app", START, 10, "'namespace/name'"),
        ("shop/web", (), 10, "none given"),
        ("shop/web", ("Version",), 10, "cannot hold Version; choose of Attach, CreateContainer"),
        ("shop/web", ("StartContainer", "PullImage"), 10, "cannot hold PullImage"),
        ("shop/web", START, 0, "more than 0 and at most 3600 s"),
        ("shop/web", START, -1, "more than 0"),
        ("shop/web", START, 3600.5, "at most 3600 s"),
        ("shop/web", START, float("nan"), "more than 0"),
        ("shop/web", START, float("inf"), "at most 3600 s"),
    ],
)
def test_what_cannot_be_held_is_refused_in_words(
    pod: str, methods: tuple[str, ...], at_most_s: float, wanted: str
) -> None:
    holds = Holds()
    with pytest.raises(InvalidInput) as caught:
        holds.add(pod, "", methods, at_most_s, 0)
    assert wanted in str(caught.value)
    assert list(holds) == []


def test_every_holdable_method_can_be_held() -> None:
    assert Holds().add("a/b", "", HOLDABLE, LONGEST_S, 0).methods == HOLDABLE


def test_removing_names_the_holds_there_are() -> None:
    holds = Holds("h")
    with pytest.raises(NotFound, match="no hold 'x'; known holds: there are none"):
        holds.remove("x")
    made = holds.add("a/b", "", START, 10, 0)
    with pytest.raises(NotFound, match="known holds: h-1"):
        holds.remove("x")
    assert holds.remove("h-1") is made
    assert list(holds) == []


def test_ids_are_never_shared() -> None:
    holds = Holds("h")
    adopted = holds.add("a/b", "", START, 10, 0, hold_id="h-1")
    assert holds.add("a/b", "", START, 10, 0).hold_id == "h-2"
    with pytest.raises(InvalidInput, match="'h-1' is there already"):
        holds.add("c/d", "", START, 10, 0, hold_id="h-1")
    assert next(iter(holds)) is adopted


def test_the_oldest_of_two_holds_is_waited_for_first() -> None:
    holds = Holds()
    old = holds.add("shop/web", "", START, 10, 0)
    new = holds.add("shop/web", "app", START, 5, 1)
    assert holds.of("StartContainer", subject()) is old
    holds.remove(old.hold_id)
    assert holds.of("StartContainer", subject()) is new


@given(
    st.lists(st.tuples(st.floats(0.001, LONGEST_S), st.floats(0, 1e6)), max_size=10),
    st.floats(0, 1e6),
)
def test_what_is_over_goes_and_the_rest_stays(
    made: list[tuple[float, float]], now_s: float
) -> None:
    holds = Holds()
    for at_most_s, made_s in made:
        holds.add("a/b", "", START, at_most_s, made_s)
    over = holds.expire(now_s)
    assert all(hold.until_s <= now_s for hold in over)
    assert all(hold.until_s > now_s for hold in holds)
    assert len(over) + len(list(holds)) == len(made)


# ---- the rule, under a clock of the test's own


class FakeClockLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer instead of waiting for it."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 1000.0
        self.fires_early_s = 0.0  # libuv's timers do: its clock has whole milliseconds

    def time(self) -> float:
        return self.now_s

    def _run_once(self) -> None:
        timers = self._scheduled  # type: ignore[attr-defined]
        if not self._ready and timers:  # type: ignore[attr-defined]
            self.now_s = max(self.now_s, timers[0]._when)
        super()._run_once()  # type: ignore[misc]

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        return super().call_at(when - self.fires_early_s, callback, *args, context=context)


def under_a_fake_clock(
    play: Callable[[FakeClockLoop, Hold], Coroutine[Any, Any, None]],
    *,
    fires_early_s: float = 0.0,
) -> None:
    """Runs a play in which time passes only where everybody waits."""
    loop = FakeClockLoop()
    loop.fires_early_s = fires_early_s
    try:
        loop.run_until_complete(asyncio.wait_for(play(loop, Hold()), 100_000))
    finally:
        loop.close()


def start(call_id: int = 1, about: Subject | None = None) -> rules.Call:
    """A StartContainer call about shop/web's "app"."""
    return rules.Call(call_id, RUNTIME + "StartContainer", None, None, about or subject())


async def waiting(rule: Hold, call: rules.Call) -> asyncio.Task[None]:
    """A task in which a call waits for its hold."""
    verdict = rule.on_request(call)
    assert isinstance(verdict, rules.Hold)
    held = verdict.until

    async def wait() -> None:
        await held

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    assert not task.done()
    return task


async def turns(count: int = 5) -> None:
    """Lets everything run that can run without time passing."""
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.parametrize("fires_early_s", [0.0, 0.0005])
def test_a_hold_ends_by_itself_at_its_time(fires_early_s: float) -> None:
    async def play(loop: FakeClockLoop, rule: Hold) -> None:
        rule.add("shop/web", "", START, 60.0)
        task = await waiting(rule, start())
        await asyncio.sleep(59.99)
        assert not task.done()
        await task
        assert loop.now_s == pytest.approx(1060.0, abs=0.01)
        assert list(rule.holds) == []
        assert rule.on_request(start()) is PASS

    under_a_fake_clock(play, fires_early_s=fires_early_s)


def test_a_released_hold_lets_all_its_calls_go_at_once() -> None:
    async def play(loop: FakeClockLoop, rule: Hold) -> None:
        hold = rule.add("shop/web", "", START, 60.0)
        tasks = [await waiting(rule, start(n)) for n in range(3)]
        assert hold.waiting == {0, 1, 2}
        assert rule.release(hold.hold_id) == 3
        await asyncio.gather(*tasks)
        assert loop.now_s == 1000.0
        assert hold.waiting == set()
        with pytest.raises(NotFound):
            rule.release(hold.hold_id)

    under_a_fake_clock(play)


def test_a_call_held_twice_goes_on_when_the_last_hold_ends() -> None:
    async def play(loop: FakeClockLoop, rule: Hold) -> None:
        first = rule.add("shop/web", "", START, 60.0)
        second = rule.add("shop/web", "app", START, 90.0)
        task = await waiting(rule, start())
        rule.release(first.hold_id)
        await turns()
        assert not task.done()
        assert second.waiting == {1}
        await task
        assert loop.now_s == pytest.approx(1090.0)

    under_a_fake_clock(play)


def test_a_cancelled_call_waits_no_more() -> None:
    async def play(loop: FakeClockLoop, rule: Hold) -> None:
        hold = rule.add("shop/web", "", START, 60.0)
        task = await waiting(rule, start())
        task.cancel()
        await turns()
        assert hold.waiting == set()
        assert rule.release(hold.hold_id) == 0

    under_a_fake_clock(play)


def test_an_adopted_hold_keeps_its_id_and_the_rest_of_its_time() -> None:
    async def play(loop: FakeClockLoop, rule: Hold) -> None:
        rule.adopt("hold-77-3", "shop/web", "", START, 12.5)
        task = await waiting(rule, start())
        await task
        assert loop.now_s == pytest.approx(1012.5)
        rule.adopt("hold-77-4", "shop/web", "", START, 10.0)
        assert rule.release("hold-77-4") == 0

    under_a_fake_clock(play)


def test_calls_of_nobody_known_are_never_held() -> None:
    async def play(loop: FakeClockLoop, rule: Hold) -> None:
        rule.add("shop/web", "", START, 60.0)
        assert rule.on_request(start(about=NOBODY)) is PASS

    under_a_fake_clock(play)


def test_released_holds_leave_no_timer_behind() -> None:
    async def play(loop: FakeClockLoop, rule: Hold) -> None:
        before = _timers(loop)
        for _ in range(50):
            rule.release(rule.add("shop/web", "", START, LONGEST_S).hold_id)
        assert _timers(loop) == before

    under_a_fake_clock(play)


def _timers(loop: FakeClockLoop) -> int:
    return sum(not timer.cancelled() for timer in loop._scheduled)  # type: ignore[attr-defined]


def test_the_rule_sees_exactly_what_can_be_held() -> None:
    assert {method.removeprefix(RUNTIME) for method in Hold.methods} == HOLDABLE
