# SPDX-License-Identifier: Apache-2.0
"""Owns this node's rerouting programs and what they are told: addresses and flows that have moved.

All of it is pinned under /sys/fs/bpf/podferry/reroute and outlives every process; a packet that no
entry is for passes. An entry bears the epoch of its move: an older one never replaces it.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from pyroute2 import IPRoute

from shim import _native_hold, _native_reroute
from shim._native_reroute import (
    Counters,
    Entry,
    EntryFlag,
    FlowKey,
    Loaded,
    NodeKind,
    Program,
    XdpMode,
)
from shim._native_target import Address
from shim.errors import MissingFeature, NativeError
from shim.network.via import Via

BPF_ROOT = Path("/sys/fs/bpf")
PIN_FOLDER = Path("podferry") / "reroute"
_A_MAP = "pf_addresses"

_lock = threading.Lock()
_shared: dict[Path, Reroute] = {}


class Reroute:
    """The rerouting of this node; a context manager that closes, which removes nothing.

    Args:
        root: a bpf file system, mounted there if there is none.

    Raises:
        NativeError: the kernel does not load the programs.
    """

    def __init__(self, root: Path = BPF_ROOT) -> None:
        self.pin_dir = root / PIN_FOLDER
        _native_hold.make_pin_dir(root, self.pin_dir)
        self.pin_dir.mkdir(mode=0o700, exist_ok=True)
        self._loaded = Loaded(self.pin_dir)
        self._inode = (self.pin_dir / _A_MAP).stat().st_ino

    def __enter__(self) -> Reroute:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets the file descriptors go; the programs go on."""
        self._loaded.close()

    def is_current(self) -> bool:
        """Whether its maps are those that are pinned: false once all was taken off."""
        try:
            return (self.pin_dir / _A_MAP).stat().st_ino == self._inode
        except FileNotFoundError:
            return False

    def attach_uplink(self, device: str, xdp: XdpMode | None = None) -> None:
        """Has the programs see what arrives by a device, and what leaves by it.

        Args:
            device: that other nodes are behind.
            xdp: also an XDP program, which is faster where the driver runs it; where another's is
                there, or the driver has none, it is done without.

        Raises:
            MissingFeature: the kernel has no tcx.
        """
        index = socket.if_nametoindex(device)
        self._attach(Program.INGRESS, index)
        self._attach(Program.EGRESS, index)
        if xdp is None:
            return
        try:
            self._loaded.attach(Program.XDP, index, xdp)
        except NativeError as error:
            if error.errno_value not in (errno.EBUSY, errno.EOPNOTSUPP, errno.EEXIST):
                raise

    def attach_pod(self, ifindex: int) -> None:
        """Has a pod's flows that must leave by another node go there.

        Args:
            ifindex: the host's end of the pod's veth.
        """
        self._attach(Program.FROM_POD, ifindex)

    def _attach(self, program: Program, index: int) -> None:
        try:
            self._loaded.attach(program, index)
        except NativeError as error:
            if error.errno_value == errno.EINVAL:
                raise MissingFeature(
                    "the kernel has no tcx",
                    where="rerouting",
                    remedy="use Linux 6.6 or newer on the nodes",
                ) from error
            raise

    def know(self, peers: Iterable[Address]) -> None:
        """Opens tunnels of other nodes that end at one of this node's addresses."""
        for peer in peers:
            self._loaded.set_node(peer, NodeKind.PEER)
        for own in own_addresses():
            self._loaded.set_node(own, NodeKind.SELF)

    def point(
        self,
        key: Address | FlowKey,
        via: Via,
        epoch: int,
        *,
        lease_s: float | None = None,
    ) -> bool:
        """Sends packets for an address, or of a flow, another way.

        Args:
            key: what is sent.
            via: where to.
            epoch: of the move; what stands there from a later one stays, and False is returned.
            lease_s: it ends by itself after so many seconds; None for never.
        """
        before = self._loaded.get(key)
        if before is not None and before.epoch > epoch:
            return False
        expires_ns = 0 if lease_s is None else time.monotonic_ns() + int(lease_s * 1e9)
        # What is for a pod of this node goes the kernel's way, but for what it would not take.
        flags = EntryFlag.OWN_ONLY if via.local else EntryFlag(0)
        counts = (before.packets, before.bytes) if before is not None else (0, 0)
        self._loaded.put(key, Entry(via.target(), epoch, expires_ns, flags, *counts))
        return True

    def clear(self, key: Address | FlowKey, epoch: int | None = None) -> bool:
        """Ends that; False where it stands there from a later epoch than the given one."""
        before = self._loaded.get(key)
        if before is not None and epoch is not None and before.epoch > epoch:
            return False
        self._loaded.drop(key)
        return True

    def entry(self, key: Address | FlowKey) -> Entry | None:
        """What stands there."""
        return self._loaded.get(key)

    def addresses(self) -> Mapping[Address, Entry]:
        """All addresses that have entries."""
        found = {address: self._loaded.get(address) for address in self._loaded.addresses()}
        return {address: entry for address, entry in found.items() if entry is not None}

    def flows(self) -> Mapping[FlowKey, Entry]:
        """All flows that have entries."""
        found = {flow: self._loaded.get(flow) for flow in self._loaded.flows()}
        return {flow: entry for flow, entry in found.items() if entry is not None}

    def counters(self) -> Counters:
        """What the programs have done."""
        return self._loaded.counters()


def shared(root: Path = BPF_ROOT) -> Reroute:
    """This process's own; loading the programs anew takes up to 100 ms.

    Raises:
        NativeError: the kernel does not load the programs.
    """
    with _lock:
        found = _shared.get(root)
        if found is not None and found.is_current():
            return found
        # The old one is not closed: another thread may be using it.
        made = _shared[root] = Reroute(root)
        return made


def remove(root: Path = BPF_ROOT) -> None:
    """Takes every rerouting program and entry off this node; nothing if there is none."""
    pin_dir = root / PIN_FOLDER
    if not pin_dir.exists():
        return
    _native_reroute.uninstall(pin_dir)
    pin_dir.rmdir()


def own_addresses() -> list[Address]:
    """The addresses of this node that others can know: none of loopback, none of a link alone."""
    found: list[Address] = []
    with IPRoute() as route:
        for one in route.get_addr():
            address = ipaddress.ip_address(one.get_attr("IFA_LOCAL") or one.get_attr("IFA_ADDRESS"))
            if not address.is_loopback and not address.is_link_local:
                found.append(address)
    return found
