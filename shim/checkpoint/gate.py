# SPDX-License-Identifier: Apache-2.0
"""The hold of a sleeping pod's packets as sleep and wake use it: shut, then released."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from shim.checkpoint.bed import Release
from shim.core.launch import Anatomy
from shim.core.sleep_record import SleepRecord
from shim.errors import InvalidInput, MissingFeature, NotFound, Refused

if TYPE_CHECKING:
    # Imported for good by the first hold: it brings pyroute2, which costs every service 10 MiB and
    # a tenth of a second of its start, also where no pod ever sleeps.
    from shim.network.hold import Hold

logger = logging.getLogger(__name__)


class Gate:
    """The hold of one pod.

    Args:
        hold: made already.
    """

    def __init__(self, hold: Hold) -> None:
        self._hold = hold
        self._netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)

    @classmethod
    def open(
        cls, sandbox_id: str, seen: Mapping[str, Anatomy], addresses: Sequence[str]
    ) -> Gate | None:
        """Makes the hold of a pod, or finds it; it lets everything pass yet.

        A pod on the node's own network has none: its packets are not only its own.

        Raises:
            NativeError, Refused: it cannot be made.
        """
        if not addresses:
            return None
        from shim.network.hold import Hold

        netns = Path(next(iter(seen.values())).joined["net"])
        found = cls.find(sandbox_id)
        if found is not None:
            return found
        cleaned = [ipaddress.ip_address(one) for one in addresses]
        return cls(Hold.create(_hold_id(sandbox_id), netns, cleaned))

    @classmethod
    def find(cls, sandbox_id: str) -> Gate | None:
        """The hold of a pod, if there is a whole one."""
        from shim.network.hold import Hold

        try:
            hold = Hold(_hold_id(sandbox_id))
        except (NotFound, MissingFeature):
            return None
        if not hold.is_complete:
            hold.remove()
            return None
        return cls(hold)

    @staticmethod
    def remove(sandbox_id: str, gate: Gate | None) -> None:
        """Lets the held packets go and takes the hold away; nothing if there is none."""
        gate = gate or Gate.find(sandbox_id)
        if gate is not None:
            gate._hold.remove()
            gate.close()

    @staticmethod
    def shut_inside(record: SleepRecord) -> None:
        """Holds what the pod's containers say to each other over loopback; see `open_inside`."""
        if _talks_inside(record):
            from shim.network import loopback

            loopback.shut(_netns_of(record))

    @staticmethod
    def open_inside(record: SleepRecord) -> None:
        """Lets that go; nothing where the pod has one container or no network of its own."""
        if _talks_inside(record):
            from shim.network import loopback

            loopback.open_again(_netns_of(record))

    def shut(self) -> None:
        """Holds every packet to the pod from now on; what it answers still goes out."""
        self._hold.arm(speaking=True)

    def hush(self) -> None:
        """Silences its kernel: once its sockets are gone, that would say so."""
        self._hold.hush()

    @property
    def event_fd(self) -> int:
        """Readable once a packet for the pod has come."""
        return self._hold.event_fd

    def release(self, alone: bool, trusted: bool, prepare: bool) -> Release:
        """What a container's monitor is told: which packet wakes it, and how packets are let go.

        Args:
            alone: whether it is the pod's only container. Otherwise the packets wait for the
                others, and the service lets them go.
            trusted: whether a packet may wake it at once. Otherwise the service proves the image
                first and wakes it.
            prepare: whether CRIU is started ahead.
        """
        triggers = [self._hold.event_fd] if trusted else []
        if not alone:
            return Release(triggers=triggers, prepare=prepare)
        actions = self._hold.release_actions()
        return Release(
            triggers=triggers,
            maps=[(one.fd, one.key, one.value) for one in actions.map_updates],
            netlink=[(self._netlink.fileno(), one) for one in actions.messages],
            prepare=prepare,
        )

    def close(self) -> None:
        """Lets go of its descriptors; the hold goes on."""
        with contextlib.suppress(InvalidInput, Refused):
            self._hold.close()
        self._netlink.close()


def _talks_inside(record: SleepRecord) -> bool:
    return len(record.beds) > 1 and bool(record.addresses)


def _netns_of(record: SleepRecord) -> Path:
    return Path(record.beds[0].sleeper.joined["net"])


def _hold_id(sandbox_id: str) -> str:
    return sandbox_id[:64]
