# SPDX-License-Identifier: Apache-2.0
"""Metadata as plain pairs, in the order of the wire."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc

MetadataPairs = tuple[tuple[str, str | bytes], ...]

# Of a connection or of the gRPC library, not of the caller.
OF_THE_LIBRARY = frozenset({"user-agent", "te", "content-type", "grpc-timeout"})


def plain(metadata: Any) -> MetadataPairs:
    """Metadata without what the gRPC library adds."""
    return tuple((key, value) for key, value in metadata or () if key not in OF_THE_LIBRARY)


def by_key(pairs: MetadataPairs) -> dict[str, list[str | bytes]]:
    """The values of each key, in order: all that grpc.aio tells of a reply's metadata."""
    values: dict[str, list[str | bytes]] = {}
    for key, value in pairs:
        values.setdefault(key, []).append(value)
    return values


class InOrder(grpc.aio.Metadata):  # type: ignore[misc]
    """Metadata that grpc.aio sends in the order given; its own class groups values by key."""

    def __init__(self, *pairs: tuple[str, str | bytes]) -> None:
        super().__init__(*pairs)
        self._pairs = pairs

    def __iter__(self) -> Iterator[tuple[str, str | bytes]]:
        return iter(self._pairs)
