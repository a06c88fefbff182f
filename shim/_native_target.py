# SPDX-License-Identifier: Apache-2.0
"""Where packets of a moved pod go, as the BPF programs want it (bpf/include/pf_target.h)."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from shim._native import binding, packed

Address = IPv4Address | IPv6Address


class Kind(enum.IntEnum):
    """How a packet is sent on."""

    NONE = 0
    LINK = 1
    TUNNEL = 2


@dataclass(frozen=True, slots=True)
class Target:
    """Where packets go.

    Attributes:
        kind: to a neighbour on the device, or in an IP-in-IP tunnel by the device's routes.
        ifindex: the device through which they leave.
        next_hop: the neighbour, or the tunnel's far end.
        source: the tunnel's near end; None without one.
        mtu_bytes: the longest packet of the pod that fits, without tunnel headers; 0 for any.
        bounce_ifindex: the device whose kernel side is given what is too long, so that its sender
            is told; 0 for none.
        bounce_mac: that device's MAC.
    """

    kind: Kind
    ifindex: int
    next_hop: Address
    source: Address | None = None
    mtu_bytes: int = 0
    bounce_ifindex: int = 0
    bounce_mac: bytes = bytes(6)

    def fill(self, raw: Any) -> Any:
        """Writes it into a C value and returns that."""
        raw.kind = int(self.kind)
        raw.ifindex = self.ifindex
        raw.mtu_bytes = self.mtu_bytes
        raw.bounce_ifindex = self.bounce_ifindex
        raw.bounce_mac[0:6] = self.bounce_mac
        raw.next_hop[0:16] = packed(self.next_hop)
        raw.source[0:16] = packed(self.source) if self.source is not None else bytes(16)
        return raw

    @classmethod
    def of(cls, raw: Any) -> Target | None:
        """The C value's; None where it says that there is no target."""
        kind = Kind(int(raw.kind))
        if kind is Kind.NONE:
            return None
        return cls(
            kind,
            int(raw.ifindex),
            unpacked(bytes(raw.next_hop)),
            unpacked(bytes(raw.source)) if any(bytes(raw.source)) else None,
            int(raw.mtu_bytes),
            int(raw.bounce_ifindex),
            bytes(raw.bounce_mac),
        )


def new() -> Any:
    """An empty C value."""
    return binding()[0].new("struct pf_target_value *")


def unpacked(raw: bytes) -> Address:
    """The address of 16 bytes, IPv4 from its mapped form."""
    address = IPv6Address(raw)
    return address.ipv4_mapped or address
