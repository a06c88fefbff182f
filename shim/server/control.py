# SPDX-License-Identifier: Apache-2.0
"""Answers the `podferry` command and successors on the control socket; decides nothing itself.

What only one command needs is imported by that command, for the sake of a fast start; see
shim.server.deferred.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import grpc

from cri_proto import control_pb2 as pb
from cri_proto import control_pb2_grpc
from shim.core.calls import CallRecord, percentile
from shim.errors import InvalidMessage, PodferryError
from shim.runtime import containerd
from shim.runtime.options import STATUS_BY_NUMBER

if TYPE_CHECKING:
    from shim.server.service import Service

WATCH_QUEUE = 1024
"""Calls a slow `podferry top` may lag behind before it is told that it missed some."""


def installed_version() -> str:
    """The version of the installed distribution."""
    import importlib.metadata

    return importlib.metadata.version("podferry")


class Control(control_pb2_grpc.ControlServicer):
    """The Control service of ``cri_proto/protos/control.proto``.

    Args:
        service: what it speaks for.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._began_s = time.monotonic()

    async def Status(self, request: pb.StatusRequest, context: Any) -> pb.StatusResponse:
        """The state of the service."""
        import psutil

        service = self._service
        return pb.StatusResponse(
            version=installed_version(),
            pid=os.getpid(),
            uptime_s=time.monotonic() - self._began_s,
            listen=service.settings.cri.listen,
            runtime=service.settings.cri.runtime,
            backend=await self._backend(),
            calls_in_flight=len(service.ledger.in_flight),
            calls_total=service.ledger.total,
            rss_bytes=psutil.Process().memory_info().rss,
            sandboxes=len(list(service.registry.sandboxes)),
            containers=len(list(service.registry.containers)),
            registry_complete=service.registry.complete,
            methods=self._methods(),
            rules=[
                pb.RuleFigures(rule=rule, outcomes=dict(counts))
                for rule, counts in service.interception.outcomes.items()
            ],
            holds=self._holds(),
            phase=service.phase,
        )

    async def WatchCalls(
        self, request: pb.WatchCallsRequest, context: Any
    ) -> AsyncIterator[pb.WatchCallsResponse]:
        """Calls as they begin and end; a slow reader misses some and is told how many."""
        queue: asyncio.Queue[pb.WatchCallsResponse] = asyncio.Queue(WATCH_QUEUE)
        missed = 0

        def on_call(record: CallRecord, ended: bool) -> None:
            nonlocal missed
            try:
                queue.put_nowait(_seen(record, ended, missed))
                missed = 0
            except asyncio.QueueFull:
                missed += 1

        for record in list(self._service.ledger.in_flight.values()):
            on_call(record, False)
        unwatch = self._service.ledger.watch(on_call)
        try:
            while True:
                yield await queue.get()
        finally:
            unwatch()

    async def Hold(self, request: pb.HoldRequest, context: Any) -> pb.HoldResponse:
        """Makes a hold."""
        async with _told(context):
            self._service.refuse_while_handing_over()
            hold = self._service.hold_rule.add(
                request.pod, request.container, request.methods, request.at_most_s
            )
            return pb.HoldResponse(hold_id=hold.hold_id)

    async def Release(self, request: pb.ReleaseRequest, context: Any) -> pb.ReleaseResponse:
        """Ends a hold, here and in a predecessor whose calls still wait for it."""
        async with _told(context):
            self._service.refuse_while_handing_over()
            released = self._service.hold_rule.release(request.hold_id)
            released += await self._service.release_in_predecessor(request.hold_id)
            return pb.ReleaseResponse(released=released)

    async def StartSuccessor(
        self, request: pb.StartSuccessorRequest, context: Any
    ) -> pb.StartSuccessorResponse:
        """Starts a successor and answers when it serves."""
        async with _told(context):
            pid = await self._service.start_successor(request.at_most_s)
            return pb.StartSuccessorResponse(successor_pid=pid)

    async def Retire(self, request: pb.RetireRequest, context: Any) -> pb.RetireResponse:
        """Takes note that a successor serves; this process finishes its calls and goes."""
        self._service.retire(request.successor_pid)
        return pb.RetireResponse(calls_in_flight=len(self._service.ledger.in_flight))

    async def Sleep(self, request: pb.SleepRequest, context: Any) -> pb.SleepResponse:
        """Puts a pod to sleep."""
        async with _told(context):
            slept = await self._service.sleeping.sleep(request.pod)
            return pb.SleepResponse(
                containers=[
                    pb.SleptContainer(
                        name=one.name,
                        frozen_ms=one.frozen_ms,
                        took_ms=one.took_ms,
                        image_bytes=one.image_bytes,
                    )
                    for one in slept
                ]
            )

    async def Wake(self, request: pb.WakeRequest, context: Any) -> pb.WakeResponse:
        """Wakes a pod."""
        async with _told(context):
            return pb.WakeResponse(took_ms=await self._service.sleeping.wake(request.pod))

    async def Pods(self, request: pb.PodsRequest, context: Any) -> pb.PodsResponse:
        """The pods of this node."""
        from shim.checkpoint.overview import overview, vars_of

        async with _told(context):
            states = await overview(self._service.sleeping)
            return pb.PodsResponse(pods=[pb.PodState(**vars_of(one)) for one in states])

    async def Migrate(
        self, request: pb.MigrateRequest, context: Any
    ) -> AsyncIterator[pb.MigrateResponse]:
        """Moves a pod; progress, then the result."""
        from shim.migration import commands

        async with _told(context):
            async for one in commands.migrate(self._service.require_moves(), request):
                yield one

    async def Migrations(
        self, request: pb.MigrationsRequest, context: Any
    ) -> pb.MigrationsResponse:
        """The moves of this node."""
        from shim.migration import commands

        async with _told(context):
            return commands.migrations(self._service.require_moves())

    async def Abort(self, request: pb.AbortRequest, context: Any) -> pb.AbortResponse:
        """Stops a move."""
        async with _told(context):
            self._service.require_moves().source.abort(request.move)
            return pb.AbortResponse()

    async def Resolve(self, request: pb.ResolveRequest, context: Any) -> pb.ResolveResponse:
        """Decides a move that is in doubt."""
        from shim.migration import commands

        async with _told(context):
            moves = self._service.require_moves()
            step = await commands.resolve(moves, request.move, request.runs)
            return pb.ResolveResponse(step=step)

    async def _backend(self) -> pb.Backend:
        try:
            version = await containerd.version(self._service.channel)
        except grpc.aio.AioRpcError as error:
            return pb.Backend(answers=False, error=f"{error.code().name}: {error.details()}")
        except InvalidMessage as error:
            return pb.Backend(answers=False, error=str(error))
        return pb.Backend(answers=True, name=version.runtime_name, version=version.runtime_version)

    def _methods(self) -> list[pb.MethodFigures]:
        return [
            pb.MethodFigures(
                method=method,
                calls=figures.calls,
                errors=figures.errors,
                ours_p50_us=percentile(figures.ours_s, 0.5) * 1e6,
                ours_p99_us=percentile(figures.ours_s, 0.99) * 1e6,
                backend_p50_us=percentile(figures.backend_s, 0.5) * 1e6,
                backend_p99_us=percentile(figures.backend_s, 0.99) * 1e6,
            )
            for method, figures in sorted(self._service.ledger.methods.items())
        ]

    def _holds(self) -> list[pb.HoldState]:
        now_s = asyncio.get_running_loop().time()
        return [
            pb.HoldState(
                hold_id=hold.hold_id,
                pod=hold.pod,
                container=hold.container,
                methods=sorted(hold.methods),
                remaining_s=max(0.0, hold.until_s - now_s),
                waiting=len(hold.waiting),
            )
            for hold in self._service.hold_rule.holds
        ]


def _seen(record: CallRecord, ended: bool, missed: int) -> pb.WatchCallsResponse:
    container = record.subject.container
    return pb.WatchCallsResponse(
        call_id=record.call_id,
        method=record.method,
        pod=record.subject.pod,
        container=container.name if container else "",
        ended=ended,
        code=record.code,
        took_ms=record.took_s * 1e3,
        backend_ms=record.backend_s * 1e3,
        request_bytes=record.request_bytes,
        reply_bytes=record.reply_bytes,
        missed=missed,
    )


@contextlib.asynccontextmanager
async def _told(context: Any) -> AsyncIterator[None]:
    # The one place where an error of our tree becomes a status on the control socket.
    try:
        yield
    except PodferryError as error:
        await context.abort(STATUS_BY_NUMBER[int(error.code)], str(error))
