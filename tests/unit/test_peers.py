# SPDX-License-Identifier: Apache-2.0
"""Nodes that know each other by certificates, over real TLS."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from cri_proto import peer_pb2 as peer
from cri_proto import peer_pb2_grpc
from shim.errors import InvalidInput, InvalidSettings, NotFound, Refused, Unavailable
from shim.peers import authority
from shim.peers.client import Peer, Peers
from shim.peers.identity import Identity, peer_name
from shim.peers.server import told
from shim.settings import Peers as Settings


class Echo(peer_pb2_grpc.PeerServicer):
    """Says who asked; refuses what it is told to."""

    async def Hello(self, request: peer.HelloRequest, context: Any) -> peer.HelloResponse:
        async with told(context):
            if request.version:
                raise Refused("no room", where="node-b", remedy="make some")
            return peer.HelloResponse(node=peer_name(context))


Make = Callable[..., Identity]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    authority.make_authority(tmp_path / "ca")
    authority.make_authority(tmp_path / "other")

    def identity(name: str, ca: str = "ca", days: int = 365) -> Identity:
        where = tmp_path / f"{name}-{ca}-{days}"
        authority.issue(tmp_path / ca, name, where, days)
        return Identity.of(
            Settings(
                node=name,
                ca=str(tmp_path / "ca" / "ca.crt"),
                certificate=str(where / "node.crt"),
                key=str(where / "node.key"),
            )
        )

    return identity


@pytest.fixture
async def address(make: Make) -> AsyncIterator[str]:
    server = grpc.aio.server()
    peer_pb2_grpc.add_PeerServicer_to_server(Echo(), server)
    port = server.add_secure_port("127.0.0.1:0", make("node-b").server_credentials())
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(0)


async def ask(one: Peer, **fields: str) -> peer.HelloResponse:
    try:
        async with one.asked() as stub:
            answer: peer.HelloResponse = await stub.Hello(peer.HelloRequest(**fields), timeout=5)
            return answer
    finally:
        await one.close()


async def test_each_end_knows_the_others_name(make: Make, address: str) -> None:
    assert (await ask(Peer("node-b", address, make("node-a")))).node == "node-a"


async def test_a_node_under_another_name_is_not_spoken_with(make: Make, address: str) -> None:
    with pytest.raises(Unavailable, match="certificates"):
        await ask(Peer("node-c", address, make("node-a")))


async def test_a_certificate_of_another_ca_is_refused(make: Make, address: str) -> None:
    with pytest.raises(Unavailable):
        await ask(Peer("node-b", address, make("node-a", "other")))


async def test_an_expired_certificate_is_refused(make: Make, address: str) -> None:
    with pytest.raises(Unavailable):
        await ask(Peer("node-b", address, make("node-a", "ca", 0)))


async def test_a_client_without_a_certificate_is_refused(
    make: Make, address: str, tmp_path: Path
) -> None:
    root = (tmp_path / "ca" / "ca.crt").read_bytes()
    options = [("grpc.ssl_target_name_override", "node-b")]
    channel = grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(root), options=options)
    with pytest.raises(grpc.aio.AioRpcError):
        await peer_pb2_grpc.PeerStub(channel).Hello(peer.HelloRequest(), timeout=5)
    await channel.close()


async def test_a_refusal_keeps_its_words_and_its_kind(make: Make, address: str) -> None:
    with pytest.raises(Refused, match=r"no room.*make some"):
        await ask(Peer("node-b", address, make("node-a")), version="x")


async def test_an_unknown_node_is_told_with_those_that_are_known(make: Make) -> None:
    peers = Peers(make("node-a"), {"node-a": "h:1", "node-b": "h:2"})
    with pytest.raises(NotFound, match="node-b"):
        peers.find("node-x")
    with pytest.raises(NotFound):
        peers.find("node-a")  # itself


def test_keys_are_private_and_a_ca_is_never_replaced(make: Make, tmp_path: Path) -> None:
    make("node-a")
    for key in tmp_path.glob("*/*.key"):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    with pytest.raises(Refused):
        authority.make_authority(tmp_path / "ca")
    with pytest.raises(InvalidInput):
        authority.issue(tmp_path / "ca", "../x", tmp_path / "y")
    with pytest.raises(InvalidInput, match="pki init"):
        authority.issue(tmp_path / "nowhere", "node-a", tmp_path / "y")


def test_a_key_that_others_can_read_is_refused(make: Make, tmp_path: Path) -> None:
    files = make("node-a").files
    files.key.chmod(0o644)
    settings = Settings(ca=str(files.ca), certificate=str(files.certificate), key=str(files.key))
    with pytest.raises(InvalidSettings, match="others"):
        Identity.of(settings)
