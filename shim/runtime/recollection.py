# SPDX-License-Identifier: Apache-2.0
"""Keeps the registry true: rebuilds it from the runtime's lists whenever they may have parted.

Watching the channel also keeps it connected: a channel without calls would fall idle, and the
first call after the runtime's return would pay for the connection.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import grpc

from shim.core.registry import Registry
from shim.errors import InvalidMessage
from shim.runtime import containerd

logger = logging.getLogger(__name__)

RETRY_FIRST_S = 0.2
RETRY_LAST_S = 5.0
EVERY_S = 600.0
"""Containers made or removed past us, on the runtime's own socket, are learnt of then."""


class Recollection:
    """The driver of a registry.

    Args:
        channel: the channel to the runtime.
        registry: what is kept true.
        on_connected: called each time the runtime's socket has been reached anew.
    """

    def __init__(
        self, channel: grpc.aio.Channel, registry: Registry, on_connected: Callable[[], None]
    ) -> None:
        self._channel = channel
        self._registry = registry
        self._on_connected = on_connected
        self._due = asyncio.Event()
        self._attempted = asyncio.Event()
        self.connected = False

    def doubt(self) -> None:
        """Asks for a rebuild soon."""
        self._registry.doubt()
        self._attempted.clear()
        self._due.set()

    async def settled(self, at_most_s: float) -> None:
        """Waits until the registry is true, or until it is known that it cannot be just now."""
        if not self._registry.complete:
            try:
                await asyncio.wait_for(self._attempted.wait(), at_most_s)
            except TimeoutError:
                if not self._attempted.is_set():  # one wait is enough: lists that hang may hang on
                    logger.warning("registry not rebuilt in time waited_s=%g", at_most_s)
                    self._attempted.set()

    async def run(self) -> None:
        """Runs for ever: watches the connection and rebuilds when due."""
        await asyncio.gather(self._watch_connection(), self._rebuild_when_due())

    async def _watch_connection(self) -> None:
        state = self._channel.get_state(try_to_connect=True)
        while True:
            ready = state is grpc.ChannelConnectivity.READY
            if ready and not self.connected:
                logger.info("runtime connected")
                self._on_connected()
                self.doubt()
            elif state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                self._attempted.set()  # nothing can be listed now; calls must not wait for it
            self.connected = ready
            await self._channel.wait_for_state_change(state)
            if ready:  # lost, even if it is back by now: it may be another process of the runtime
                logger.warning("runtime connection lost")
                self._registry.doubt()
                self.connected = False
            state = self._channel.get_state(try_to_connect=True)

    async def _rebuild_when_due(self) -> None:
        while True:
            try:
                await asyncio.wait_for(self._due.wait(), EVERY_S)
            except TimeoutError:
                logger.debug("registry rebuilt by the clock")
            self._due.clear()
            retry_s = RETRY_FIRST_S
            while not await self._rebuild():
                self._attempted.set()
                try:
                    await asyncio.wait_for(self._due.wait(), retry_s)
                    retry_s = RETRY_FIRST_S  # the runtime has come back meanwhile
                except TimeoutError:
                    retry_s = min(2 * retry_s, RETRY_LAST_S)
                self._due.clear()

    async def _rebuild(self) -> bool:
        self._registry.begin_rebuild()
        try:
            listing = await containerd.list_all(self._channel)
        except grpc.aio.AioRpcError as error:
            logger.warning("registry not rebuilt code=%s", error.code().name)
            return False
        except InvalidMessage as error:
            logger.warning("registry not rebuilt reason=%r", str(error))
            return False
        self._registry.rebuild(listing.sandboxes, listing.containers)
        self._attempted.set()
        logger.info(
            "registry rebuilt sandboxes=%d containers=%d",
            len(listing.sandboxes), len(listing.containers),
        )  # fmt: skip
        return True
