# SPDX-License-Identifier: Apache-2.0
"""Reads which addresses of its own the sockets of a network namespace use.

The files are those of Documentation/networking/proc_net_tcp.rst: each 32-bit word of an address is
hexadecimal in the machine's byte order.
"""

from __future__ import annotations

import ipaddress
import struct
from pathlib import Path

_FILES = ("tcp", "tcp6", "udp", "udp6", "raw", "raw6")


def local_addresses(pid: int, proc: Path = Path("/proc")) -> frozenset[str]:
    """The local addresses of all sockets in a process's network namespace, wildcards left out."""
    found = set()
    for name in _FILES:
        try:
            lines = (proc / str(pid) / "net" / name).read_text().splitlines()[1:]
        except OSError:
            continue  # the kernel may be without IPv6
        for line in lines:
            address = _parsed(line.split()[1].partition(":")[0])
            if not address.is_unspecified:
                found.add(str(address))
    return frozenset(found)


def _parsed(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    words = [int(text[at : at + 8], 16) for at in range(0, len(text), 8)]
    data = struct.pack(f"={len(words)}I", *words)
    if len(data) == 4:
        return ipaddress.IPv4Address(data)
    address = ipaddress.IPv6Address(data)
    return address.ipv4_mapped or address
