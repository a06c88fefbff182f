# SPDX-License-Identifier: Apache-2.0
"""Answers other nodes: each call goes to the side of the move that it is about."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from cri_proto import peer_pb2 as peer
from cri_proto import peer_pb2_grpc
from shim.errors import InvalidMessage, PodferryError
from shim.peers import capabilities
from shim.peers.identity import peer_name
from shim.runtime.options import STATUS_BY_NUMBER

if TYPE_CHECKING:
    from shim.migration.moves import Moves

logger = logging.getLogger(__name__)


class PeerService(peer_pb2_grpc.PeerServicer):
    """The Peer service of ``cri_proto/protos/peer.proto``.

    Args:
        moves: what it speaks for.
    """

    def __init__(self, moves: Moves) -> None:
        self._moves = moves

    async def Hello(self, request: peer.HelloRequest, context: Any) -> peer.HelloResponse:
        """Who this is and what it can do."""
        async with told(context):
            here = await self._moves.capabilities()
            return capabilities.as_message(here)

    async def Offer(self, request: peer.OfferRequest, context: Any) -> peer.OfferResponse:
        """A pod is to come."""
        async with told(context):
            await self._moves.target.offer(request, peer_name(context))
            return peer.OfferResponse()

    async def Prepare(self, request: peer.PrepareRequest, context: Any) -> peer.PrepareResponse:
        """Its replacement, claimed."""
        async with told(context):
            self._of_its_source(request.move, context)
            return await self._moves.target.prepare(request)

    async def Files(
        self, requests: AsyncIterator[peer.FilesRequest], context: Any
    ) -> peer.FilesResponse:
        """One round of one tree."""
        async with told(context):
            first = await anext(aiter(requests), None)
            if first is None:
                raise InvalidMessage("no tree is named")
            self._of_its_source(first.move, context)

            async def frames() -> AsyncIterator[bytes]:
                if first.frame:
                    yield first.frame
                async for one in requests:
                    yield one.frame

            return await self._moves.target.files(first.move, first.tree, frames())
        raise AssertionError("abort does not return")

    async def Stage(self, request: peer.StageRequest, context: Any) -> peer.StageResponse:
        """Restored, and stopped."""
        async with told(context):
            self._of_its_source(request.move, context)
            return await self._moves.target.stage(request)

    async def Commit(self, request: peer.CommitRequest, context: Any) -> peer.CommitResponse:
        """It runs here."""
        async with told(context):
            self._of_its_source(request.move, context)
            return await self._moves.target.commit(request)

    async def Drop(self, request: peer.DropRequest, context: Any) -> peer.DropResponse:
        """It never ran here, or it does."""
        async with told(context):
            self._of_its_source(request.move, context)
            return await self._moves.target.drop(request)

    async def Ask(self, request: peer.AskRequest, context: Any) -> peer.AskResponse:
        """What is written here."""
        async with told(context):
            if request.as_source:
                return peer.AskResponse(step=self._moves.source.step_of(request.move))
            return await self._moves.target.ask(request)

    async def Point(self, request: peer.PointRequest, context: Any) -> peer.PointResponse:
        """Addresses are reached by way of another node."""
        async with told(context):
            await self._moves.point(request, peer_name(context))
            return peer.PointResponse()

    def _of_its_source(self, move: str, context: Any) -> None:
        self._moves.require_source(move, peer_name(context))


@contextlib.asynccontextmanager
async def told(context: Any) -> AsyncIterator[None]:
    """An error of our tree becomes the call's status."""
    try:
        yield
    except PodferryError as error:
        await context.abort(STATUS_BY_NUMBER[int(error.code)], str(error))
    except Exception:
        logger.exception("a peer's call failed")
        raise
