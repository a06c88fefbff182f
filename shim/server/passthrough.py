# SPDX-License-Identifier: Apache-2.0
"""Carries any call of any method to the runtime and back as bytes; knows no message.

Known unary methods travel as unary calls, which costs half as much; all else travels as a stream
in both directions, which is the same on the wire. Methods that a rule asked for go by way of
`shim.server.interception`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
from grpc._cython import cygrpc

from shim.core import methods
from shim.core.calls import CallLedger, CallRecord
from shim.server.interception import Interception

# Headers that belong to a connection or to the gRPC library and not to the caller.
_NOT_FORWARDED = frozenset({"user-agent", "te", "content-type", "grpc-timeout"})

ServicerContext = Any  # grpc.aio.ServicerContext, generic in types that bytes do not have


class InOrder(grpc.aio.Metadata):
    """Metadata in the order of the wire; grpc.aio's own class moves the values of a key together.

    Args:
        pairs: keys and values.
    """

    def __init__(self, *pairs: tuple[str, str | bytes]) -> None:
        super().__init__()
        self._pairs = pairs

    def __iter__(self) -> Iterator[tuple[str, str | bytes]]:
        return iter(self._pairs)

    def __len__(self) -> int:
        return len(self._pairs)


def forwarded(metadata: Any) -> InOrder:
    """The caller's metadata without what belongs to its connection; order and doubles are kept."""
    return InOrder(*((key, value) for key, value in metadata or () if key not in _NOT_FORWARDED))


class Passthrough(grpc.GenericRpcHandler):
    """The handler of every call on the CRI socket.

    Args:
        channel: the channel to the runtime, made with `options.channel_options`.
        ledger: where calls are counted.
        interception: runs the rules; its methods are decoded, no others.
        label: names a method in figures.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        ledger: CallLedger,
        interception: Interception,
        label: Callable[[str], str] = methods.label,
    ) -> None:
        self._channel = channel
        self._ledger = ledger
        self._interception = interception
        self._label = label
        self._handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {}

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[bytes, bytes]:
        """Finds or makes the handler of one method; every method has one."""
        method = handler_call_details.method
        handler = self._handlers.get(method)
        if handler is None:
            handler = self._make(method)
            if method in methods.UNARY or method in methods.STREAMING:
                self._handlers[method] = handler  # invented names would grow this without bound
        return handler

    def _make(self, method: str) -> grpc.RpcMethodHandler[bytes, bytes]:
        if method in methods.UNARY:
            unary = self._channel.unary_unary(method)

            async def carry_unary(request: bytes, context: ServicerContext) -> bytes:
                return await self._unary(method, unary, request, context)

            return grpc.unary_unary_rpc_method_handler(carry_unary)
        stream = self._channel.stream_stream(method)

        async def carry_stream(_: object, context: ServicerContext) -> None:
            await self._stream(method, stream, context)

        return grpc.stream_stream_rpc_method_handler(carry_stream)

    async def _unary(
        self, method: str, multicallable: Any, request: bytes, context: ServicerContext
    ) -> bytes:
        record = self._ledger.begin(method, time.monotonic())
        record.request_bytes = len(request)
        code = "CANCELLED"  # what it is if none of the lines below comes to say otherwise

        async def backend(data: bytes) -> bytes:
            nonlocal code
            begun_s = time.monotonic()
            call = multicallable(
                data,
                timeout=context.time_remaining(),
                metadata=forwarded(context.invocation_metadata()),
            )
            try:
                reply: bytes = await call
            finally:
                record.backend_s += time.monotonic() - begun_s
            initial = await call.initial_metadata()
            if initial:
                await context.send_initial_metadata(tuple(initial))
            trailing = await call.trailing_metadata()
            if trailing:
                context.set_trailing_metadata(tuple(trailing))
            return reply

        try:
            if self._interception.wants(method):
                reply = await self._interception.run(record, request, backend, context)
            else:
                reply = await backend(request)
            record.reply_bytes = len(reply)
            code = "OK"
            return reply
        except grpc.aio.AioRpcError as error:
            code = error.code().name
            await _abort_as(error, context)
            raise  # not reached: abort raises
        except grpc.aio.AbortError:
            code = getattr(context.code(), "name", "UNKNOWN")
            raise
        finally:
            self._ledger.end(record, self._label(method), code, time.monotonic())

    async def _stream(self, method: str, multicallable: Any, context: ServicerContext) -> None:
        record = self._ledger.begin(method, time.monotonic(), stream=True)
        code = "CANCELLED"
        call = multicallable(
            timeout=context.time_remaining(), metadata=forwarded(context.invocation_metadata())
        )
        upward = asyncio.create_task(_pump_requests(record, context, call))
        try:
            await _pump_replies(record, call, context)
            code = "OK"
        except grpc.aio.AioRpcError as error:
            code = error.code().name
            await _abort_as(error, context)
        except cygrpc.ExecuteBatchError as error:
            # The caller went away while we wrote to it; grpc.aio would log that as a failure.
            raise asyncio.CancelledError from error
        finally:
            self._ledger.end(record, self._label(method), code, time.monotonic())
            upward.cancel()
            call.cancel()  # no effect once the backend has ended the call
            # It may have been about to read from the caller just when our call ended; then grpc.aio
            # raises errors of its own kinds in it, which are nobody's to hear.
            await asyncio.gather(upward, return_exceptions=True)


async def _pump_requests(record: CallRecord, context: ServicerContext, call: Any) -> None:
    # A backend may end the call before it has read everything; what it then says is told by the
    # other pump, so errors of writing are not ours to tell.
    with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError, cygrpc.InternalError):
        await call.wait_for_connection()
        while (message := await context.read()) is not grpc.aio.EOF:
            record.request_bytes += len(message)
            # Not call.write(): where the backend has ended the call meanwhile, that sets INTERNAL
            # "Internal error from Core" in place of the backend's status, which is on its way.
            # grpc-go answers an unknown method before it reads the request, so kubelet would see
            # INTERNAL where UNIMPLEMENTED makes it fall back.
            await call._cython_call.send_serialized_message(message)
        await call.done_writing()


async def _pump_replies(record: CallRecord, call: Any, context: ServicerContext) -> None:
    initial = await call.initial_metadata()
    # A call that has ended and has no initial metadata may have had no headers at all: its status
    # came in their place. All others' headers are forwarded when they are sent.
    if initial or not call.done():
        await context.send_initial_metadata(tuple(initial))
    while (message := await call.read()) is not grpc.aio.EOF:
        record.reply_bytes += len(message)
        await context.write(message)
    code = await call.code()
    if code is not grpc.StatusCode.OK:
        raise grpc.aio.AioRpcError(
            code, initial, await call.trailing_metadata(), details=await call.details()
        )
    context.set_trailing_metadata(tuple(await call.trailing_metadata()))


async def _abort_as(error: grpc.aio.AioRpcError, context: ServicerContext) -> None:
    """Ends our call as the backend ended its own: code, text and metadata verbatim."""
    initial = error.initial_metadata()
    if initial:
        with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError, grpc.aio.UsageError):
            await context.send_initial_metadata(tuple(initial))
    # abort() wants a tuple: given a Metadata object it raises TypeError, and the caller would get
    # UNKNOWN in place of the backend's code.
    await context.abort(error.code(), error.details() or "", tuple(error.trailing_metadata() or ()))
