# SPDX-License-Identifier: Apache-2.0
"""Playbooks of the rules' driver: a rule's verdict in, what the backend and the caller see out."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest

from cri_proto import runtime_v1_pb2 as cri
from shim.core.calls import CallRecord
from shim.core.methods import IMAGE, RUNTIME
from shim.core.policy import SILENT, Wishes
from shim.core.registry import Sandbox, Subject
from shim.core.rules import CHANGED, PASS, Answer, BaseRule, Call, Hold, Refuse, RuleBook
from shim.errors import InvalidAnnotation, NotFound, Unavailable
from shim.server.interception import Interception
from tests.unit import wire_bytes as wire

CREATE = RUNTIME + "CreateContainer"
REQUEST = cri.CreateContainerRequest(pod_sandbox_id="s1").SerializeToString()
REPLY = cri.CreateContainerResponse(container_id="c1").SerializeToString()

ASKED = Subject(Sandbox("s1", "shop", "web", "uid", wishes=Wishes(managed=True)))
UNASKED = Subject(Sandbox("s1", "shop", "web", "uid", wishes=SILENT))


class Bug(Exception):
    """What a broken rule raises."""


class Scripted(BaseRule):
    """A rule whose every step is given by the test."""

    methods = (CREATE,)

    def __init__(
        self,
        name: str = "scripted",
        *,
        request: Callable[[Call], Any] = lambda call: PASS,
        reply: Callable[[Call, Any], Any] = lambda call, reply: PASS,
        error: Callable[[Call, int], None] = lambda call, code: None,
    ) -> None:
        self.name = name
        self._request, self._reply, self._error = request, reply, error
        self.seen: list[str] = []

    def on_request(self, call: Call) -> Any:
        self.seen.append("request")
        return self._request(call)

    def on_reply(self, call: Call, reply: Any) -> Any:
        self.seen.append("reply")
        return self._reply(call, reply)

    def on_error(self, call: Call, code: int) -> None:
        self.seen.append(f"error {code}")
        self._error(call, code)


class Context:
    """What interception uses of a servicer context."""

    def __init__(self, time_remaining_s: float | None) -> None:
        self._time_remaining_s = time_remaining_s
        self.aborted: tuple[grpc.StatusCode, str] | None = None

    def time_remaining(self) -> float | None:
        return self._time_remaining_s

    async def abort(self, code: grpc.StatusCode, details: str = "") -> None:
        self.aborted = (code, details)
        raise grpc.aio.AbortError("Locally aborted.")


def backend_error(code: grpc.StatusCode, details: str) -> grpc.aio.AioRpcError:
    """An error of the runtime."""
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details=details)


@dataclass
class Played:
    """What everybody saw of one call."""

    backend_saw: list[bytes] = field(default_factory=list)
    caller_got: bytes | None = None
    caller_error: tuple[grpc.StatusCode, str] | None = None
    rebuilds: int = 0
    outcomes: dict[str, dict[str, int]] = field(default_factory=dict)
    record: CallRecord = field(default_factory=lambda: CallRecord(7, CREATE, 0.0))


def play(
    *rules: BaseRule,
    request: bytes = REQUEST,
    reply: bytes | BaseException = REPLY,
    method: str = CREATE,
    deadline_s: float | None = 120.0,
) -> Played:
    """Takes one call through the rules."""
    played = Played()
    played.record.method = method

    def note_rebuild() -> None:
        played.rebuilds += 1

    async def backend(data: bytes) -> bytes:
        played.backend_saw.append(data)
        if isinstance(reply, BaseException):
            raise reply
        return reply

    async def run() -> None:
        interception = Interception(RuleBook(rules), note_rebuild)
        context = Context(deadline_s)
        try:
            played.caller_got = await interception.run(played.record, request, backend, context)
        except grpc.aio.AbortError:
            played.caller_error = context.aborted
        except grpc.aio.AioRpcError as error:
            played.caller_error = (error.code(), error.details() or "")
        played.outcomes = {name: dict(counts) for name, counts in interception.outcomes.items()}

    asyncio.run(run())
    return played


def raises(error: Exception, before: Callable[[Call], object] = lambda call: None) -> Any:
    """A step that raises after it has done something."""

    def step(call: Call, *_: object) -> None:
        before(call)
        raise error

    return step


def about(subject: Subject) -> BaseRule:
    """A first rule that knows whom the call is about."""

    def know(call: Call) -> Any:
        call.subject = subject
        return PASS

    return Scripted("know", request=know)


# ---- verdicts on the request


def test_pass_forwards_the_callers_own_bytes() -> None:
    odd_but_valid = REQUEST + wire.field(1, "s1")  # the field twice: encoding anew would differ
    played = play(Scripted(), request=odd_but_valid)
    assert played.backend_saw == [odd_but_valid]
    assert played.caller_got == REPLY
    assert played.outcomes == {"scripted": {"passed": 1}}


def test_changed_forwards_the_edited_message() -> None:
    def edit(call: Call) -> Any:
        call.request.config.metadata.name = "edited"
        return CHANGED

    played = play(Scripted(request=edit))
    sent = cri.CreateContainerRequest.FromString(played.backend_saw[0])
    assert sent.config.metadata.name == "edited"
    assert sent.pod_sandbox_id == "s1"
    assert played.outcomes["scripted"] == {"changed": 1}


def test_answer_ends_the_call_before_the_backend_and_before_later_rules() -> None:
    later = Scripted("later")
    made = cri.CreateContainerResponse(container_id="ours")
    played = play(Scripted(request=lambda call: Answer(made)), later)
    assert played.backend_saw == []
    assert cri.CreateContainerResponse.FromString(played.caller_got or b"").container_id == "ours"
    assert later.seen == []
    assert played.outcomes["scripted"] == {"answered": 1}


def test_refuse_gives_the_error_of_our_tree_its_code_and_its_words() -> None:
    error = InvalidAnnotation("it is 'x', wanted is 'y'", where="annotation k", remedy="correct it")
    later = Scripted("later")
    played = play(Scripted(request=lambda call: Refuse(error)), later)
    assert played.backend_saw == []
    assert played.caller_error == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "annotation k: it is 'x', wanted is 'y'; correct it",
    )
    assert later.seen == []
    assert played.outcomes["scripted"] == {"refused": 1}


def test_hold_waits_and_goes_on_to_the_next_rule() -> None:
    order: list[str] = []

    async def wait() -> None:
        await asyncio.sleep(0)
        order.append("waited")

    def note(call: Call) -> Any:
        order.append("next rule")
        return PASS

    played = play(
        Scripted("holding", request=lambda call: Hold(wait(), "for a test")),
        Scripted("next", request=note),
    )
    assert order == ["waited", "next rule"]
    assert played.caller_got == REPLY
    assert played.outcomes == {"holding": {"held": 1}, "next": {"passed": 1}}
    assert played.record.held_s > 0


def test_a_call_cancelled_while_held_counts_as_held_time_and_not_as_ours() -> None:
    async def run() -> CallRecord:
        held = asyncio.Event()

        async def wait() -> None:
            held.set()
            await asyncio.Event().wait()

        async def backend(data: bytes) -> bytes:
            raise AssertionError("the call must not go on")

        book = RuleBook([Scripted(request=lambda call: Hold(wait(), "for ever"))])
        record = CallRecord(1, CREATE, 0.0)
        task = asyncio.create_task(Interception(book).run(record, REQUEST, backend, Context(None)))
        await held.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return record

    assert asyncio.run(run()).held_s > 0


def test_rules_see_method_deadline_and_call_id() -> None:
    seen: list[Call] = []
    rule = Scripted(request=seen.append)  # a verdict of None is a pass
    assert play(rule, deadline_s=3.5).caller_got == REPLY
    assert play(rule, deadline_s=None).caller_got == REPLY
    assert [(c.call_id, c.method, c.deadline_s) for c in seen] == [
        (7, CREATE, 3.5),
        (7, CREATE, None),
    ]


def test_the_second_rule_sees_what_the_first_has_changed() -> None:
    def edit(call: Call) -> Any:
        call.request.config.metadata.name = "first"
        return CHANGED

    def append(call: Call) -> Any:
        call.request.config.metadata.name += "+second"
        return CHANGED

    played = play(Scripted("one", request=edit), Scripted("two", request=append))
    sent = cri.CreateContainerRequest.FromString(played.backend_saw[0])
    assert sent.config.metadata.name == "first+second"


# ---- the outcome


def test_a_good_reply_is_the_backends_own_bytes() -> None:
    odd_reply = REPLY + wire.field(90, "unknown") + wire.field(1, "c1")
    rule = Scripted()
    assert play(rule, reply=odd_reply).caller_got == odd_reply
    assert rule.seen == ["request", "reply"]


def test_a_changed_reply_is_encoded_anew() -> None:
    def edit(call: Call, reply: Any) -> Any:
        reply.container_id = "edited"
        return CHANGED

    played = play(Scripted(reply=edit), reply=REPLY + wire.field(90, "kept"))
    assert wire.fields(played.caller_got or b"") == {1: [b"edited"], 90: [b"kept"]}


def test_rules_are_told_of_the_backends_error_and_the_caller_gets_it_verbatim() -> None:
    rules = Scripted("one"), Scripted("two")
    played = play(*rules, reply=backend_error(grpc.StatusCode.UNKNOWN, "RegistryUnavailable: ö"))
    assert played.caller_error == (grpc.StatusCode.UNKNOWN, "RegistryUnavailable: ö")
    assert [rule.seen for rule in rules] == [["request", "error 2"]] * 2


def test_rules_are_told_that_the_caller_went_away() -> None:
    rule = Scripted()
    with pytest.raises(asyncio.CancelledError):
        play(rule, reply=asyncio.CancelledError())
    assert rule.seen == ["request", "error 1"]


def test_the_subject_a_rule_found_is_in_the_record() -> None:
    assert play(about(ASKED)).record.subject is ASKED

    def find(call: Call, reply: Any) -> Any:
        call.subject = UNASKED
        return PASS

    assert play(Scripted(reply=find)).record.subject is UNASKED


# ---- broken rules


@pytest.mark.parametrize("error", [Bug("b"), NotFound("no such pod"), Unavailable("later")])
@pytest.mark.parametrize("subject", [UNASKED, Subject()])
def test_a_rule_broken_on_a_request_costs_nothing_who_did_not_ask(
    error: Exception, subject: Subject
) -> None:
    """Also where what escapes from the rule is an error of our own tree: only Refuse refuses."""
    played = play(about(subject), Scripted(request=raises(error)))
    assert played.caller_got == REPLY
    assert played.backend_saw == [REQUEST]
    assert played.outcomes["scripted"] == {"failed": 1}


@pytest.mark.parametrize("error", [Bug("secret of the pod"), NotFound("no such pod")])
def test_a_rule_broken_on_a_request_is_told_to_who_asked(error: Exception) -> None:
    played = play(about(ASKED), Scripted(request=raises(error)))
    assert played.backend_saw == []
    assert played.caller_error is not None
    code, details = played.caller_error
    assert code is grpc.StatusCode.INTERNAL
    assert "rule scripted failed on shop/web" in details
    assert type(error).__name__ in details
    assert 'podferry.dev/managed: "false"' in details
    assert "secret" not in details


def test_a_half_made_change_is_undone() -> None:
    def half(call: Call) -> None:
        call.request.config.metadata.name = "half"
        call.request.pod_sandbox_id = "half"

    def look(call: Call) -> Any:
        assert call.request.pod_sandbox_id == "s1"
        call.request.config.metadata.attempt = 3
        return CHANGED

    played = play(Scripted("breaks", request=raises(Bug(), half)), Scripted("later", request=look))
    sent = cri.CreateContainerRequest.FromString(played.backend_saw[0])
    assert (sent.pod_sandbox_id, sent.config.metadata.name) == ("s1", "")
    assert sent.config.metadata.attempt == 3


def test_a_half_made_change_keeps_the_whole_one_before_it() -> None:
    def edit(call: Call) -> Any:
        call.request.pod_sandbox_id = "whole"
        return CHANGED

    def half(call: Call) -> None:
        call.request.pod_sandbox_id = "half"

    played = play(Scripted("one", request=edit), Scripted("two", request=raises(Bug(), half)))
    assert cri.CreateContainerRequest.FromString(played.backend_saw[0]).pod_sandbox_id == "whole"


def test_a_hold_that_breaks_lets_the_call_go_on() -> None:
    async def breaks() -> None:
        raise Bug

    played = play(about(UNASKED), Scripted(request=lambda call: Hold(breaks(), "broken")))
    assert played.caller_got == REPLY
    assert played.outcomes["scripted"] == {"held": 1, "failed": 1}


def test_an_answer_that_cannot_be_encoded_is_a_broken_rule() -> None:
    played = play(about(UNASKED), Scripted(request=lambda call: Answer("no message")))
    assert played.caller_got == REPLY
    assert played.outcomes["scripted"] == {"failed": 1}


@pytest.mark.parametrize("subject", [ASKED, UNASKED])
def test_a_rule_broken_on_a_reply_never_costs_the_reply(subject: Subject) -> None:
    def half(call: Call, reply: Any) -> Any:
        reply.container_id = "half"
        raise Bug

    later = Scripted("later", reply=lambda call, reply: reply.container_id == "c1" or 1 / 0)
    played = play(about(subject), Scripted(reply=half), later)
    assert played.caller_got == REPLY
    assert played.rebuilds == 1
    assert played.outcomes["scripted"] == {"passed": 1, "failed": 1}
    assert "failed" not in played.outcomes["later"]


def test_a_rule_broken_on_an_error_does_not_hide_the_error_nor_itself() -> None:
    later = Scripted("later")
    played = play(
        Scripted(error=raises(Bug())),
        later,
        reply=backend_error(grpc.StatusCode.NOT_FOUND, "not found"),
    )
    assert played.caller_error == (grpc.StatusCode.NOT_FOUND, "not found")
    assert later.seen == ["request", "error 5"]
    assert played.outcomes["scripted"]["failed"] == 1


def test_a_broken_rule_is_logged_without_what_was_in_the_call(
    caplog: pytest.LogCaptureFixture,
) -> None:
    request = cri.CreateContainerRequest(pod_sandbox_id="s1")
    request.config.envs.add(key="TOKEN", value=b"hunter2")
    with caplog.at_level(logging.DEBUG):
        play(Scripted(request=raises(Bug())), request=request.SerializeToString())
    assert "rule failed rule=scripted call=7" in caplog.text
    assert "hunter2" not in caplog.text


# ---- messages that are none


def test_a_request_that_is_no_message_passes_unseen() -> None:
    rule = Scripted()
    played = play(rule, request=b"\xff\xff\xff")
    assert played.backend_saw == [b"\xff\xff\xff"]
    assert played.caller_got == REPLY
    assert rule.seen == []
    assert played.outcomes["scripted"] == {"undecodable": 1}


def test_a_reply_that_is_no_message_passes_and_makes_the_memory_doubtful() -> None:
    rule = Scripted()
    played = play(rule, reply=b"\xff\xff\xff")
    assert played.caller_got == b"\xff\xff\xff"
    assert rule.seen == ["request"]
    assert played.rebuilds == 1
    assert played.outcomes["scripted"] == {"passed": 1, "undecodable": 1}


def test_text_that_is_not_utf8_is_no_message() -> None:
    assert play(Scripted(), request=wire.field(1, b"\xff")).backend_saw == [wire.field(1, b"\xff")]


def test_an_empty_request_is_a_message() -> None:
    rule = Scripted()
    assert play(rule, request=b"", reply=b"").caller_got == b""
    assert rule.seen == ["request", "reply"]


# ---- unknown fields

NESTED = wire.field(
    2,  # config
    wire.field(1, wire.field(1, "app") + wire.field(77, "in metadata"))
    + wire.field(9, wire.field(1, "k1") + wire.field(2, "v1"))
    + wire.field(9, wire.field(1, "k2") + wire.field(2, "v2"))
    + wire.field(
        15, wire.field(1, wire.field(3, 512) + wire.field(99, 4)) + wire.field(98, "linux")
    )
    + wire.field(500, wire.field(1, "a whole unknown message")),
)
WITH_UNKNOWN = wire.field(1, "s1") + NESTED + wire.field(60, 123456789) + wire.field(61, b"\0\xff")


def test_unknown_fields_survive_an_edit_at_every_depth() -> None:
    def edit(call: Call) -> Any:
        call.request.config.metadata.attempt = 2
        call.request.config.linux.resources.oom_score_adj = 5
        call.request.config.annotations["podferry.dev/x"] = "y"
        return CHANGED

    sent = wire.fields(play(Scripted(request=edit), request=WITH_UNKNOWN).backend_saw[0])
    assert (sent[60], sent[61]) == ([123456789], [b"\0\xff"])
    config = wire.fields(_one(sent, 2))
    assert config[500] == [wire.field(1, "a whole unknown message")]
    assert wire.fields(_one(config, 1)) == {1: [b"app"], 2: [2], 77: [b"in metadata"]}
    assert sorted(map(str, config[9])) == sorted(
        str(wire.field(1, f"k{n}") + wire.field(2, f"v{n}")) for n in (1, 2)
    )
    assert len(config[10]) == 1
    linux = wire.fields(_one(config, 15))
    assert linux[98] == [b"linux"]
    assert wire.fields(_one(linux, 1)) == {3: [512], 5: [5], 99: [4]}


def _one(message: dict[int, list[int | bytes]], number: int) -> bytes:
    (value,) = message[number]
    assert isinstance(value, bytes)
    return value


# ---- which methods


def test_only_methods_that_a_rule_asked_for_are_wanted() -> None:
    interception = Interception(RuleBook([Scripted()]))
    assert interception.wants(CREATE)
    assert not interception.wants(RUNTIME + "Version")
    assert not interception.wants("/other/CreateContainer")


@pytest.mark.parametrize(
    "method", [IMAGE + "Invented", RUNTIME + "GetContainerEvents", "/a/Version"]
)
def test_a_rule_for_a_method_without_known_messages_is_refused_at_the_start(method: str) -> None:
    rule = Scripted()
    rule.methods = (method,)
    with pytest.raises(ValueError, match=method):
        Interception(RuleBook([rule]))


def test_the_playbook_context_has_what_the_real_one_has() -> None:
    def needs(function: Callable[..., Coroutine[Any, Any, None]]) -> list[str]:
        return list(inspect.signature(function).parameters)[:3]

    assert needs(Context.abort) == needs(grpc.aio.ServicerContext.abort)
    assert hasattr(grpc.aio.ServicerContext, "time_remaining")
