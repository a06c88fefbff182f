# SPDX-License-Identifier: Apache-2.0
"""Calls another node's peer service; its refusals become errors of our tree."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc

from cri_proto import peer_pb2_grpc
from shim.errors import InvalidInput, NotFound, PodferryError, Refused, Unavailable
from shim.peers.identity import Identity
from shim.runtime.options import channel_options

_BY_CODE: dict[grpc.StatusCode, type[PodferryError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidInput,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.FAILED_PRECONDITION: Refused,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: Unavailable,
}


class Peer:
    """One other node.

    Args:
        node: its name, which its certificate must have.
        address: "address:port" of its peer service.
        identity: this node.
    """

    def __init__(self, node: str, address: str, identity: Identity) -> None:
        self.node = node
        self.address = address
        self.files = identity.files
        self._channel = grpc.aio.secure_channel(
            address,
            identity.channel_credentials(),
            options=[*channel_options(), ("grpc.ssl_target_name_override", node)],
        )
        self.stub: Any = peer_pb2_grpc.PeerStub(self._channel)

    @property
    def host(self) -> str:
        """Its address without the port."""
        return self.address.rpartition(":")[0].strip("[]")

    @contextlib.asynccontextmanager
    async def asked(self) -> AsyncIterator[Any]:
        """Its stub; what it refuses is raised as an error of our tree.

        Raises:
            Unavailable: it does not answer, or is not the node that it should be.
            PodferryError: it refused; its words.
        """
        try:
            yield self.stub
        except grpc.aio.AioRpcError as error:
            kind = _BY_CODE.get(error.code(), PodferryError)
            if kind is not Unavailable:
                raise kind(error.details() or error.code().name, where=self._where) from error
            raise Unavailable(
                f"it does not answer: {error.details()}", where=self._where,
                remedy="see `podferry doctor` there; the certificates of both nodes must be of one "
                "CA, in date, and name the nodes as the settings do",
            ) from error  # fmt: skip

    @property
    def _where(self) -> str:
        return f"node {self.node} ({self.address})"

    async def close(self) -> None:
        """Hangs up."""
        await self._channel.close()


class Peers:
    """The other nodes, by name; dialled when first asked for.

    Args:
        identity: this node.
        nodes: name to "address:port".
    """

    def __init__(self, identity: Identity, nodes: dict[str, str]) -> None:
        self._identity = identity
        self._nodes = nodes
        self._dialled: dict[str, Peer] = {}

    @property
    def names(self) -> list[str]:
        """All that are known but this one."""
        return sorted(set(self._nodes) - {self._identity.node})

    def find(self, node: str) -> Peer:
        """The node of a name.

        Raises:
            NotFound: there is none, or it is this one.
        """
        if node not in self.names:
            known = ", ".join(self.names) or "none"
            raise NotFound(
                f"no other node is called {node!r}; known are: {known}",
                remedy="see [peers] nodes in docs/settings.md",
            )
        if node not in self._dialled:
            self._dialled[node] = Peer(node, self._nodes[node], self._identity)
        return self._dialled[node]

    async def close(self) -> None:
        """Hangs up everywhere."""
        for one in self._dialled.values():
            await one.close()
        self._dialled.clear()
