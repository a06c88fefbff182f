# SPDX-License-Identifier: Apache-2.0
"""Runs the rules on the calls that rules asked for: decodes, obeys verdicts, contains failures.

Failure of ours. A rule that raises on a request, or a request that cannot be decoded, lets the
original bytes pass, unless the pod asked for podferry by name: then the caller gets INTERNAL with
the rule's name, since acting unseen could do harm. A rule that raises on a reply never costs the
caller that reply: the runtime has acted already.
"""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from shim.core.calls import CallRecord
from shim.core.rules import Answer, Call, Changed, Hold, Refuse, Rule, RuleBook, fails_closed
from shim.errors import Code, PodferryError, RuleFailed
from shim.runtime.options import STATUS_BY_NUMBER
from shim.server import codec

logger = logging.getLogger(__name__)

Backend = Callable[[bytes], Awaitable[bytes]]


class Interception:
    """The driver of a rule book.

    Args:
        book: the rules.
        on_reply_failure: called when a rule broke on a reply, so that the memory is rebuilt.
    """

    def __init__(self, book: RuleBook, on_reply_failure: Callable[[], None] = lambda: None) -> None:
        unknown = [m for m in book.methods if not codec.knows(m)]
        if unknown:
            raise ValueError(f"rules ask for methods without a known message: {sorted(unknown)}")
        self._book = book
        self._on_reply_failure = on_reply_failure
        self.outcomes: dict[str, Counter[str]] = {rule.name: Counter() for rule in book.rules}

    def wants(self, method: str) -> bool:
        """Whether any rule asked for the method."""
        return bool(self._book.of(method))

    async def run(
        self, record: CallRecord, request: bytes, backend: Backend, context: Any
    ) -> bytes:
        """Takes one call through the rules and, unless a rule ends it, through the backend.

        Returns:
            The reply's bytes: the backend's own unless a rule changed or made it.

        Raises:
            grpc.aio.AioRpcError: the backend's error, for the caller verbatim.
            grpc.aio.AbortError: a rule refused, or broke on a pod that asked for podferry.
        """
        rules = self._book.of(record.method)
        try:
            message = codec.decode_request(record.method, request)
        except Exception as error:  # DecodeError is the caller's fault, all else a bug of ours
            logger.warning("request not decodable, passed call=%d method=%s kind=%s",
                           record.call_id, record.method, type(error).__name__)  # fmt: skip
            self._count(rules, "undecodable")
            return await backend(request)
        call = Call(record.call_id, record.method, message, context.time_remaining())
        try:
            for rule in rules:
                answered, request = await self._ask(rule, call, request, record)
                if answered is not None:
                    return answered
        except PodferryError as error:
            await _abort(error, context)
        finally:
            record.subject = call.subject
        try:
            reply = await backend(request)
        except grpc.aio.AioRpcError as error:
            self._tell_error(rules, call, error.code().value[0])
            raise
        except asyncio.CancelledError:  # the caller went away, or its deadline is over
            self._tell_error(rules, call, Code.CANCELLED)
            raise
        return self._tell_reply(rules, call, reply, record)

    async def _ask(
        self, rule: Rule, call: Call, request: bytes, record: CallRecord
    ) -> tuple[bytes | None, bytes]:
        """One rule's say on a request: (final reply or None, the request's bytes from here on)."""
        outcomes = self.outcomes[rule.name]
        answer: bytes | None = None
        try:
            verdict = rule.on_request(call)
            if isinstance(verdict, Hold):
                outcomes["held"] += 1
                await self._hold(verdict, call, record)
            elif isinstance(verdict, Answer):
                answer = codec.encode(verdict.reply)
                outcomes["answered"] += 1
            elif isinstance(verdict, Changed):
                request = codec.encode(call.request)
                outcomes["changed"] += 1
            else:
                outcomes["refused" if isinstance(verdict, Refuse) else "passed"] += 1
        except Exception as error:  # one of our own tree too: only `Refuse` is meant for the caller
            self._broke(rule, call, error)
            if fails_closed(call):
                raise RuleFailed(
                    f"rule {rule.name} failed on {call.subject.pod}: {type(error).__name__}",
                    where="podferry",
                    remedy='see the service\'s log; set podferry.dev/managed: "false" on the pod'
                    " to run it without podferry",
                ) from error
            call.request = codec.decode_request(call.method, request)  # undo a half-made change
            return None, request
        if isinstance(verdict, Refuse):
            raise verdict.error
        return answer, request

    async def _hold(self, verdict: Hold, call: Call, record: CallRecord) -> None:
        begun_s = time.monotonic()
        record.subject = call.subject
        logger.info("call waits call=%d method=%s pod=%s reason=%s", call.call_id, call.method,
                    call.subject.pod, verdict.reason)  # fmt: skip
        try:
            await verdict.until
        finally:
            record.held_s += time.monotonic() - begun_s

    def _tell_reply(
        self, rules: tuple[Rule, ...], call: Call, reply: bytes, record: CallRecord
    ) -> bytes:
        try:
            message = codec.decode_reply(call.method, reply)
        except Exception:
            self._count(rules, "undecodable")
            self._on_reply_failure()
            return reply
        for rule in rules:
            try:
                if isinstance(rule.on_reply(call, message), Changed):
                    reply = codec.encode(message)
            except Exception as error:
                self._broke(rule, call, error)
                self._on_reply_failure()
                message = codec.decode_reply(call.method, reply)
        record.subject = call.subject
        return reply

    def _tell_error(self, rules: tuple[Rule, ...], call: Call, code: int) -> None:
        for rule in rules:
            try:
                rule.on_error(call, code)
            except Exception as broken:
                self._broke(rule, call, broken)

    def _broke(self, rule: Rule, call: Call, error: Exception) -> None:
        self.outcomes[rule.name]["failed"] += 1
        # Without the error's own words: they may quote the message.
        logger.error("rule failed rule=%s call=%d method=%s pod=%s kind=%s trace=%r", rule.name,
                     call.call_id, call.method, call.subject.pod, type(error).__name__,
                     "".join(traceback.format_tb(error.__traceback__)))  # fmt: skip

    def _count(self, rules: tuple[Rule, ...], outcome: str) -> None:
        for rule in rules:
            self.outcomes[rule.name][outcome] += 1


async def _abort(error: PodferryError, context: Any) -> None:
    # The one place where an error of our tree becomes a status on the CRI socket.
    await context.abort(STATUS_BY_NUMBER[int(error.code)], str(error))
