# SPDX-License-Identifier: Apache-2.0
"""The gRPC options without which grpcio is not transparent are all set, and no other."""

from __future__ import annotations

import pytest

from shim.runtime import options

CHANNEL = dict(options.channel_options())
SERVER = dict(options.server_options(10.0))


@pytest.mark.parametrize("ends", [CHANNEL, SERVER], ids=["channel", "server"])
def test_no_end_has_a_limit_of_ours(ends: dict[str, int | str]) -> None:
    assert ends["grpc.max_receive_message_length"] == -1
    assert ends["grpc.max_send_message_length"] == -1
    for name in ("grpc.max_metadata_size", "grpc.absolute_max_metadata_size"):
        assert isinstance(ends[name], int)
        assert int(ends[name]) >= 1024 * 1024


@pytest.mark.parametrize("ends", [CHANNEL, SERVER], ids=["channel", "server"])
def test_nothing_pings_and_nothing_compresses(ends: dict[str, int | str]) -> None:
    assert ends["grpc.http2.bdp_probe"] == 0
    assert not [name for name in ends if "keepalive" in name or "compression" in name]


def test_the_runtime_is_found_again_within_a_second() -> None:
    """gRPC adds a fifth of jitter to a back-off."""
    assert int(CHANNEL["grpc.max_reconnect_backoff_ms"]) * 1.2 < 1000
    assert int(CHANNEL["grpc.initial_reconnect_backoff_ms"]) <= int(
        CHANNEL["grpc.max_reconnect_backoff_ms"]
    )


def test_no_call_is_ever_sent_twice() -> None:
    assert CHANNEL["grpc.enable_retries"] == 0


def test_the_authority_is_the_one_kubelet_sends() -> None:
    assert CHANNEL["grpc.default_authority"] == "localhost"


@pytest.mark.parametrize(("age_s", "age_ms"), [(10.0, 10_000), (1, 1000), (2.5, 2500)])
def test_connections_age_so_that_a_successor_inherits_them(age_s: float, age_ms: int) -> None:
    aged = dict(options.server_options(age_s))
    assert aged["grpc.max_connection_age_ms"] == age_ms
    assert "grpc.max_connection_age_grace_ms" not in aged, "open calls must not be cut"


def test_no_option_stands_twice() -> None:
    for made in (options.channel_options(), options.server_options(1)):
        names = [name for name, _ in made]
        assert len(names) == len(set(names))
