# SPDX-License-Identifier: Apache-2.0
"""Keeps CNI's host-local from giving a moved pod's address to another while its flows live.

host-local has one file per address, named by it, in /var/lib/cni/networks/NETWORK; the file's first
line is the owner's container id, its second the device (plugins/ipam/host-local/backend/disk). A
file with an owner of our own is a reservation: host-local's deletion looks for its own owner only.
Other address managers have no such place, and `reserve` says so.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from shim._native_target import Address

NETWORKS = Path("/var/lib/cni/networks")
OWNER = "podferry-moved"


def reserve(address: Address, *, networks: Path = NETWORKS) -> bool:
    """Takes the address over from the pod that had it; may be called again.

    Call it while the pod's sandbox still has it, or at once after: nobody else can have got it.

    Args:
        address: the moved pod's.
        networks: where host-local keeps its files.

    Returns:
        False where no range of host-local holds it.
    """
    for network in _networks(networks):
        with _locked(network):
            path = network / str(address)
            if not path.exists():
                continue
            beside = network / f".{address}.podferry"
            beside.write_text(f"{OWNER}\r\neth0", "ascii")
            beside.replace(path)
            return True
    return False


def release(address: Address, *, networks: Path = NETWORKS) -> None:
    """Gives the address back; nothing where it is not ours."""
    for network in _networks(networks):
        with _locked(network):
            path = network / str(address)
            with contextlib.suppress(FileNotFoundError):
                if path.read_text("ascii", "replace").split()[:1] == [OWNER]:
                    path.unlink()


def reserved(*, networks: Path = NETWORKS) -> list[str]:
    """Every address that is kept."""
    found = []
    for network in _networks(networks):
        for path in network.iterdir():
            with contextlib.suppress(OSError):
                if path.is_file() and path.read_text("ascii", "replace").split()[:1] == [OWNER]:
                    found.append(path.name)
    return sorted(found)


def _networks(root: Path) -> list[Path]:
    try:
        return sorted(path for path in root.iterdir() if path.is_dir())
    except FileNotFoundError:
        return []


@contextlib.contextmanager
def _locked(network: Path) -> Iterator[None]:
    """host-local's own lock: flock on a file in the directory (alexflint/go-filemutex)."""
    descriptor = os.open(network / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
