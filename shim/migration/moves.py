# SPDX-License-Identifier: Apache-2.0
"""Puts the two sides of moves together with the peer service: one object a node service has."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
from collections.abc import Callable
from pathlib import Path

import grpc

from cri_proto import peer_pb2 as peer
from cri_proto import peer_pb2_grpc
from shim.core.fitness import Capabilities
from shim.errors import NativeError, PodferryError, Refused
from shim.memory.stream import Receiver, TlsFiles
from shim.migration import network
from shim.migration.arrival import Places
from shim.migration.counting import MoveMetrics
from shim.migration.figures import Figures, Progress
from shim.migration.source import Plan, Source
from shim.migration.target import Target
from shim.network import flip
from shim.network import via as ways
from shim.peers import capabilities
from shim.peers.client import Peers
from shim.peers.identity import Identity
from shim.peers.server import PeerService
from shim.runtime.options import server_options
from shim.runtime.recipes import Recipes
from shim.settings import Settings

logger = logging.getLogger(__name__)

CONNECTION_AGE_S = 3600.0
PORT_PATIENCE_S = 20.0
PORT_RETRY_S = 0.2


class Moves:
    """Pods that come and go.

    Args:
        settings: the node's.
        channel: to the runtime.
        recipes: what pods were made by.
        version: of podferry.

    Raises:
        InvalidSettings: the certificates are not usable.
    """

    def __init__(
        self, settings: Settings, channel: grpc.aio.Channel, recipes: Recipes, version: str
    ) -> None:
        self._settings = settings
        self._channel = channel
        self._version = version
        self._identity = Identity.of(settings.peers)
        self.peers = Peers(self._identity, settings.peers.nodes)
        self._host = settings.peers.listen.rpartition(":")[0].strip("[]")
        self._receiver = Receiver()
        self.metrics = MoveMetrics()
        state, run = Path(settings.service.state_dir), Path(settings.service.run_dir)
        self._places = places = Places(
            channel=channel,
            recipes=recipes,
            stores=Path(settings.move.stores_dir),
            clones=run / "mounts",
            receiver=self._receiver,
            metrics=self.metrics,
        )
        self.target = Target(self.node, places, state / "arrivals", self.peers)
        self.source = Source(
            node=self.node,
            address=self._host,
            settings=settings.move,
            channel=channel,
            recipes=recipes,
            directory=state / "departures",
            images=run / "departing",
            peers=self.peers,
            here=self.capabilities,
            arrived=self.target.arrived,
            is_back=self.target.is_back,
            metrics=self.metrics,
        )
        self._server: grpc.aio.Server | None = None
        self._watch: asyncio.Task[None] | None = None

    @property
    def node(self) -> str:
        """This node's name."""
        return self._identity.node

    async def capabilities(self) -> Capabilities:
        """What this node says of itself."""
        return await capabilities.here(self.node, self._version, self._channel)

    async def start(self) -> None:
        """Brings journals and containers into agreement, then listens to other nodes.

        Raises:
            OSError: an address cannot be listened at.
        """
        files = self._identity.files
        tls = TlsFiles(certificate=files.certificate, key=files.key, authority=files.ca)
        await self._listen_for_pages(tls)
        await self.target.recover()
        self._server = grpc.aio.server(options=server_options(CONNECTION_AGE_S))
        peer_pb2_grpc.add_PeerServicer_to_server(PeerService(self), self._server)
        self._server.add_secure_port(
            self._settings.peers.listen, self._identity.server_credentials()
        )
        await self._server.start()
        logger.info("other nodes reach this one node=%s listen=%s", self.node,
                    self._settings.peers.listen)  # fmt: skip
        self._watch = asyncio.create_task(self.target.watch())
        await self.source.recover()

    async def move(self, plan: Plan, tell: Callable[[Progress], None]) -> Figures:
        """Moves a planned pod, and tells the other nodes where it is reached then.

        Raises:
            PodferryError: it runs on here.
        """
        given_up = self.source.given_up_addresses(plan)
        figures = await self.source.move(plan, tell)
        request = peer.PointRequest(
            lineage=plan.offer.lineage,
            epoch=plan.offer.epoch,
            node=plan.target,
            addresses=plan.offer.addresses,
        )
        await self.tell_others(request, plan.target)
        if given_up:
            request = peer.PointRequest(
                lineage=plan.offer.lineage,
                epoch=plan.offer.epoch,
                addresses=given_up,
                clear=True,
            )
            for address in given_up:
                await asyncio.to_thread(network.forget_address, address, plan.offer.epoch)
            await self.tell_others(request, self.node)
        return figures

    async def _listen_for_pages(self, tls: TlsFiles) -> None:
        # A predecessor gives the port up only after it has heard that it may retire.
        until_s = asyncio.get_running_loop().time() + PORT_PATIENCE_S
        while True:
            try:
                self._places.pages_port = await asyncio.to_thread(
                    self._receiver.start, self._host, self._settings.peers.pages_port, tls
                )
                return
            except NativeError as error:
                late = asyncio.get_running_loop().time() > until_s
                if error.errno_value != errno.EADDRINUSE or late:
                    raise
            await asyncio.sleep(PORT_RETRY_S)

    @property
    def is_busy(self) -> bool:
        """Whether a pod is on its way from or to this node."""
        coming = any(not self.target.is_over(one) for one in self.target.arrivals)
        return coming or bool(self.source.departures)

    def require_source(self, move: str, asker: str) -> None:
        """Makes sure that only the source of a move speaks about it.

        Raises:
            Refused: somebody else does.
        """
        arrival = self.target.arrivals.get(move)
        if arrival is not None and arrival.record.source not in ("", asker):
            raise Refused(
                f"{asker!r} is not its source", where=f"move {move}",
                remedy="only the node that the pod leaves may say where it runs",
            )  # fmt: skip

    async def point(self, request: peer.PointRequest, asker: str) -> None:
        """Addresses of a pod are reached by way of another node from now on.

        Raises:
            NotFound: the node is not known here.
        """
        for text in request.addresses:
            address = ipaddress.ip_address(text)
            if request.clear:
                await asyncio.to_thread(network.forget_address, text, request.epoch)
            elif request.node != self.node:
                host = self.peers.find(request.node).host
                way = await asyncio.to_thread(ways.find, ipaddress.ip_address(host))
                await asyncio.to_thread(flip.point, address, [way], request.epoch)

    async def tell_others(self, request: peer.PointRequest, but: str) -> None:
        """Tells every node but the two of a move where its addresses are reached."""

        async def tell(node: str) -> None:
            with contextlib.suppress(PodferryError):
                async with self.peers.find(node).asked() as stub:
                    await stub.Point(request, timeout=5.0)

        await asyncio.gather(*(tell(one) for one in self.peers.names if one != but))

    async def sandbox_removed(self, sandbox_id: str) -> None:
        """Takes away what a removed sandbox's moves have left, here and on the other nodes."""
        try:
            await self._sandbox_removed(sandbox_id)
        except (PodferryError, OSError) as error:
            logger.error("moves leave something behind sandbox=%s error=%s", sandbox_id, error)

    async def _sandbox_removed(self, sandbox_id: str) -> None:
        await asyncio.to_thread(network.forget_sandbox, sandbox_id)
        came = self.target.arrived(sandbox_id)
        if came is None:
            return
        has_left = self.source.departed(came.uid) is not None
        self.target.forget(came.move)
        if has_left:
            return  # it lives on elsewhere, and is reached through what this node knows
        request = peer.PointRequest(
            lineage=came.lineage, epoch=came.epoch, addresses=came.addresses, clear=True
        )
        for address in came.addresses:
            await asyncio.to_thread(network.forget_address, address, came.epoch)
        await self.tell_others(request, self.node)

    async def close(self) -> None:
        """Stops listening; what is on the way is found by the next process."""
        server, self._server = self._server, None
        if server is None:
            return
        await server.stop(0)
        if self._watch is not None:
            self._watch.cancel()
        await self.source.close()
        await self.target.close()
        await self.peers.close()
        await asyncio.to_thread(self._receiver.close)
