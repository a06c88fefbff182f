# SPDX-License-Identifier: Apache-2.0
"""Two ends of a stream over loopback."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from shim import _native
from shim.errors import MissingFeature
from shim.memory.store import PageStore
from shim.memory.stream import Receiver, Sender, TlsFiles, make_token
from tests.memory.fix_stream import Authority

LOOPBACK = "127.0.0.1"
TIMEOUT_MS = 3000
QUOTA_BYTES = 256 << 20


@pytest.fixture(autouse=True)
def extension() -> None:
    try:
        _native.require()
    except MissingFeature as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Who has signed both nodes' certificates."""
    return Authority(tmp_path_factory.mktemp("certificates"), "authority")


@dataclass
class Ends:
    """A receiver that listens and expects one token, and what a sender needs."""

    receiver: Receiver
    port: int
    store: PageStore
    token: bytes
    source: TlsFiles

    def connect(self, **changes: Any) -> Sender:
        """A sender; ``changes`` are `Sender.connect`'s arguments."""
        arguments: dict[str, Any] = {
            "address": LOOPBACK,
            "port": self.port,
            "tls": self.source,
            "token": self.token,
            "peer_name": "target",
            "timeout_ms": TIMEOUT_MS,
        }
        return Sender.connect(**(arguments | changes))


@pytest.fixture
def ends(authority: Authority, tmp_path: Path) -> Iterator[Ends]:
    """Both ends, nothing sent yet."""
    receiver = Receiver()
    target = authority.issue("target")
    port = receiver.start(LOOPBACK, 0, target, timeout_ms=TIMEOUT_MS)
    token = make_token()
    store = receiver.expect(token, tmp_path / "store", QUOTA_BYTES, peer_name="source")
    try:
        yield Ends(receiver, port, store, token, authority.issue("source"))
    finally:
        receiver.close()
        store.remove()
