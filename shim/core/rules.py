# SPDX-License-Identifier: Apache-2.0
"""What a rule is, what it may decide about a call, and which rules see which method.

A rule is a small object in ``shim/rules`` with one concern. It names the methods it wants to see;
no other call is ever decoded. Rules run in the order of the book, first on the request, then, in
the same order, on the outcome. The first rule that answers or refuses ends the request's way.
"""

from __future__ import annotations

from collections.abc import Awaitable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from shim.core.registry import NOBODY, Subject
from shim.errors import PodferryError

Message = Any  # a protobuf message; core neither imports protobuf nor looks inside


@dataclass(slots=True)
class Call:
    """One call as rules see it.

    Attributes:
        call_id: counts calls of this process; in every log line about the call.
        method: full gRPC name.
        request: the decoded request. A rule may edit it in place and say `Changed`.
        deadline_s: what was left of the caller's deadline when the call arrived, None for none.
        subject: the pod and container, filled by the first rule that knows.
        notes: what a rule wants to find again when the outcome is known, by the rule's name.
    """

    call_id: int
    method: str
    request: Message
    deadline_s: float | None
    subject: Subject = NOBODY
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Pass:
    """The message goes on as it is."""


@dataclass(frozen=True, slots=True)
class Changed:
    """The message was edited in place and is to be encoded again."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The caller gets this reply; the backend never sees the call."""

    reply: Message


@dataclass(frozen=True, slots=True)
class Refuse:
    """The caller gets this error; the backend never sees the call."""

    error: PodferryError


@dataclass(frozen=True, slots=True)
class Hold:
    """The call waits, inside the caller's deadline, and then goes on to the next rule.

    Attributes:
        until: done when the call may go on.
        reason: for logs and `podferry top`.
    """

    until: Awaitable[object]
    reason: str


PASS = Pass()
CHANGED = Changed()

RequestVerdict = Pass | Changed | Answer | Refuse | Hold
ReplyVerdict = Pass | Changed


class Rule(Protocol):
    """What every rule has; `BaseRule` gives the defaults."""

    @property
    def name(self) -> str:
        """Names the rule in figures, logs and notes."""

    @property
    def methods(self) -> Collection[str]:
        """Full names of the methods it wants to see."""

    def on_request(self, call: Call) -> RequestVerdict:
        """Decides about the request before the backend sees it."""

    def on_reply(self, call: Call, reply: Message) -> ReplyVerdict:
        """Sees the backend's good reply; may edit it in place and say `Changed`."""

    def on_error(self, call: Call, code: int) -> None:
        """Learns that the call failed, with the gRPC code; the caller gets that error verbatim.

        CANCELLED may mean that the caller went away; what the runtime did then is not known.
        """


class BaseRule:
    """A rule that does nothing; concrete rules override what they need."""

    name = ""
    methods: Collection[str] = ()

    def on_request(self, call: Call) -> RequestVerdict:
        """Passes."""
        return PASS

    def on_reply(self, call: Call, reply: Message) -> ReplyVerdict:
        """Passes."""
        return PASS

    def on_error(self, call: Call, code: int) -> None:
        """Ignores."""


class RuleBook:
    """The rules of a service, in order, found by method.

    Args:
        rules: the rules; their order is the order of asking.

    Raises:
        ValueError: two rules share a name, which would mix their figures and notes.
    """

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.rules = tuple(rules)
        names = [rule.name for rule in self.rules]
        if len(set(names)) != len(names):
            raise ValueError(f"rules share a name: {names}")
        by_method: dict[str, tuple[Rule, ...]] = {}
        for rule in self.rules:
            for method in rule.methods:
                by_method[method] = (*by_method.get(method, ()), rule)
        self._by_method: Mapping[str, tuple[Rule, ...]] = by_method

    def of(self, method: str) -> tuple[Rule, ...]:
        """The rules that asked for a method; empty means its bytes are never looked at."""
        return self._by_method.get(method, ())

    @property
    def methods(self) -> frozenset[str]:
        """All methods that any rule asked for."""
        return frozenset(self._by_method)


def fails_closed(call: Call) -> bool:
    """Whether a broken rule must stop this call.

    A pod that asked for podferry by name gets an explicit error; for every other pod, known or
    not, the call passes as if there were no rule.
    """
    sandbox = call.subject.sandbox
    return sandbox is not None and sandbox.wishes.asks
