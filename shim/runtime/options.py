# SPDX-License-Identifier: Apache-2.0
"""The gRPC options without which grpcio is not transparent, each with its reason."""

from __future__ import annotations

import grpc

STATUS_BY_NUMBER = {code.value[0]: code for code in grpc.StatusCode}
UNLIMITED = -1
METADATA_BYTES = 16 * 1024 * 1024
WINDOW_BYTES = 256 * 1024
RECONNECT_FIRST_MS = 100
RECONNECT_LAST_MS = 500

Options = list[tuple[str, int | str]]

_BOTH_ENDS: Options = [
    # Limits belong to the ends: containerd's are 16 MiB and configurable, grpcio's 4 MiB.
    ("grpc.max_receive_message_length", UNLIMITED),
    ("grpc.max_send_message_length", UNLIMITED),
    # Error texts travel as metadata, and runtimes quote hook and CNI output in them. grpcio drops
    # such a status at random from 8 KiB on and always from 16 KiB on (grpc/grpc#37852).
    ("grpc.max_metadata_size", METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", METADATA_BYTES),
    # Else gRPC pings the other end and widens a stream's window up to 16 MiB by what it guesses of
    # the line: 30 readers that had stopped in mid-stream held 578 MiB of ours, and hold 90 MiB so;
    # on a unix socket no reply of 100 B, 1 MiB or 15 MiB was slower for it.
    ("grpc.http2.bdp_probe", 0),
    # In its place a fixed window that holds the lists of 250 pods. With the usual 64 KiB a reply
    # of 90 KiB (ListContainers of 110 pods) waits for a window update on each leg: 80 us more.
    ("grpc.http2.lookahead_bytes", WINDOW_BYTES),
]


def channel_options() -> Options:
    """Options of the channel to the runtime.

    Keepalive stays off: grpc-go answers pings more frequent than its policy with GOAWAY
    "too_many_pings", and containerd sets no policy of its own.
    """
    return [
        *_BOTH_ENDS,
        # The default backs off up to 120 s: kubelet would hear Unavailable long after containerd
        # is back. Jitter adds a fifth, so 500 ms keeps every attempt under a second.
        ("grpc.initial_reconnect_backoff_ms", RECONNECT_FIRST_MS),
        ("grpc.min_reconnect_backoff_ms", 1000),
        ("grpc.max_reconnect_backoff_ms", RECONNECT_LAST_MS),
        # What kubelet sends; hyper- and h2-based runtimes reject a path as authority.
        ("grpc.default_authority", "localhost"),
        ("grpc.use_local_subchannel_pool", 1),
        # A proxy must never send a lifecycle call twice.
        ("grpc.enable_retries", 0),
    ]


def server_options(connection_age_s: float) -> Options:
    """Options of the CRI socket.

    Args:
        connection_age_s: after this long a connection is asked, by GOAWAY and without losing a
            call, to be made anew. It is what lets a successor inherit all clients.
    """
    return [*_BOTH_ENDS, ("grpc.max_connection_age_ms", int(connection_age_s * 1000))]
