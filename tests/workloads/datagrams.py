# SPDX-License-Identifier: Apache-2.0
"""A UDP echo: each datagram comes back with how many its sender has sent.

datagrams.py PORT
"""

from __future__ import annotations

import socket
import sys

with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as here:
    here.bind(("0.0.0.0", int(sys.argv[1])))
    counts: dict[tuple[str, int], int] = {}
    while True:
        said, peer = here.recvfrom(65536)
        counts[peer] = counts.get(peer, 0) + 1
        here.sendto(b"%s %d" % (said, counts[peer]), peer)
