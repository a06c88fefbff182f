# SPDX-License-Identifier: Apache-2.0
"""Tells systemd how the service is, by the sd_notify(3) datagram protocol."""

from __future__ import annotations

import contextlib
import os
import socket

PATIENCE_S = 1.0


def notify(*assignments: str, patience_s: float = PATIENCE_S) -> None:
    """Sends assignments such as ``READY=1``; nothing happens where no systemd listens.

    Args:
        assignments: what to tell.
        patience_s: how long to wait, and all of this process with us, while systemd's queue is
            full; then the assignments are lost.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]  # sd_notify(3): an abstract socket is written with an @
    with (
        contextlib.suppress(OSError),  # a deaf systemd must not stop the service
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client,
    ):
        client.settimeout(patience_s)
        client.sendto("\n".join(assignments).encode(), address)


def watchdog_interval_s() -> float | None:
    """Half of the watchdog time, as sd_watchdog_enabled(3) advises; None where there is none."""
    try:
        timeout_us = int(os.environ.get("WATCHDOG_USEC", "0"))
    except ValueError:
        return None
    return timeout_us / 2e6 if timeout_us > 0 else None
