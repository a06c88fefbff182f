# SPDX-License-Identifier: Apache-2.0
"""Owns the hold of one pod's packets: armed for its sleep or move, then released or forwarded.

The state is the kernel's: a hold outlives every process and is found again by `Hold.find_all`.
docs/hold.md says what is promised. Everything here blocks, for milliseconds; under asyncio call it
in a thread.
"""

from __future__ import annotations

import contextlib
import errno
import re
import socket
import struct
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from shim import _native_hold as native
from shim._native_hold import Counters, Flag, InstalledHold, Phase, Settings, Waking
from shim._native_target import Address, Target
from shim.errors import InvalidInput, NativeError, NotFound, Refused, Unavailable
from shim.network import plug, routes
from shim.network import via as ways
from shim.network.via import Via

BPF_ROOT = Path("/sys/fs/bpf")
PIN_FOLDER = Path("podferry") / "hold"

DEFAULT_MAX_BYTES = 32 << 20
DEFAULT_MAX_PACKETS = 16_384

# A bpf file system takes no dots.
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_DRAIN_S = 1.0
_DRAIN_STEP_S = 0.001
_LIMIT_SLACK_BYTES = 1 << 20
_UINT32_MAX = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class MapUpdate:
    """A bpf map update: BPF_MAP_UPDATE_ELEM with flags 0 (BPF_ANY)."""

    fd: int
    key: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class ReleaseActions:
    """All that a release is, for a process that has neither Python nor this library.

    The map updates come first, then each message on a NETLINK_ROUTE socket of the network namespace
    in which the hold was made. Every message asks for an acknowledgement. Doing them twice does no
    harm.
    """

    map_updates: tuple[MapUpdate, ...]
    messages: tuple[bytes, ...]


class Hold:
    """The hold of one pod; a context manager that closes, which removes nothing."""

    def __init__(self, hold_id: str, root: Path = BPF_ROOT) -> None:
        """Finds an existing hold; `create` makes one.

        Raises:
            NotFound: there is no such hold.
            InvalidInput: an id that cannot be one.
        """
        self.hold_id = _checked(hold_id)
        self.root = root
        self.pin_dir = root / PIN_FOLDER / hold_id
        self._installed: InstalledHold | None = None
        self._aimed: tuple[bytes, ...] = ()
        self._aimed_at: tuple[Via, ...] = ()
        try:
            self._installed = InstalledHold(self.pin_dir)
        except NativeError as error:
            if error.errno_value != errno.ENOENT:
                raise
            if not self.pin_dir.exists():
                raise NotFound("there is no hold of this id", where=str(self.pin_dir)) from error

    @classmethod
    def create(
        cls,
        hold_id: str,
        netns: Path,
        addresses: Iterable[Address],
        *,
        root: Path = BPF_ROOT,
        device: str | None = None,
        max_bytes: int = DEFAULT_MAX_BYTES,
        max_packets: int = DEFAULT_MAX_PACKETS,
        wake_on_icmp: bool = True,
        clsact: bool = False,
    ) -> Hold:
        """Makes a hold that holds nothing yet; a failure leaves nothing behind.

        Args:
            hold_id: a name of our choice: the sandbox's id.
            netns: the pod's network namespace.
            addresses: the pod's; at least one, at most 16.
            root: a bpf file system, mounted there if there is none.
            device: where the pod is behind no veth of its own: the device towards it, which others
                may share; only packets to and from the addresses are then held.
            max_bytes: bound of what is held. Above it a new packet is dropped and counted.
            max_packets: the same, in packets.
            wake_on_icmp: whether an echo request wakes.
            clsact: attach by clsact filters also where the kernel has tcx.

        Raises:
            Refused: it exists, or the pod's veth does not end here.
            NativeError: the kernel refuses a step.
        """
        pods = tuple(addresses)
        if not pods:
            raise InvalidInput("a hold needs the pod's addresses", where=hold_id)
        pin_dir = root / PIN_FOLDER / _checked(hold_id)
        pod_ifindex, mac, flags = _device_of(netns, pods[0], device)
        if wake_on_icmp:
            flags |= Flag.WAKE_ON_ICMP
        if clsact:
            flags |= Flag.CLSACT
        try:
            native.make_pin_dir(root, pin_dir.parent)
            # First and last of everything: what exists of a hold is found by it.
            pin_dir.mkdir(mode=0o700)
        except FileExistsError as error:
            raise Refused(
                "the hold exists", where=str(pin_dir), remedy="remove it first"
            ) from error
        try:
            ends = plug.create(hold_id, _limit_bytes(max_bytes))
            settings = Settings(
                pod_ifindex=pod_ifindex,
                plug_ifindex=ends.near_ifindex,
                far_ifindex=ends.far_ifindex,
                max_packets=max_packets,
                max_bytes=max_bytes,
                flags=flags,
                pod_mac=mac,
            )
            native.install(pin_dir, settings, pods)
            return cls(hold_id, root)
        except BaseException:
            _take_away(hold_id, pin_dir)
            raise

    @classmethod
    def find_all(cls, root: Path = BPF_ROOT) -> list[Hold]:
        """Every hold there is, made by whatever process; the caller closes them.

        One whose making or removing was interrupted is among them: `is_complete` is false, and
        `remove` is what can be done.
        """
        try:
            ids = sorted(path.name for path in (root / PIN_FOLDER).iterdir())
        except FileNotFoundError:
            return []
        return [cls(hold_id, root) for hold_id in ids]

    def __enter__(self) -> Hold:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets the file descriptors go; the hold goes on."""
        if self._installed is not None:
            self._installed.close()

    @property
    def is_complete(self) -> bool:
        """Whether it can do its work: fully made, and its devices exist."""
        if self._installed is None or not plug.exists(self.hold_id):
            return False
        return _is_device(self._installed.settings().pod_ifindex)

    @property
    def phase(self) -> Phase:
        """Whether packets pass, are held, or go through the opened plug."""
        return self._whole().phase()

    @property
    def counters(self) -> Counters:
        """What it has seen since it was last armed."""
        return self._whole().counters()

    @property
    def settings(self) -> Settings:
        """What it was made with."""
        return self._whole().settings()

    @property
    def addresses(self) -> frozenset[Address]:
        """The pod's addresses."""
        return self._whole().addresses()

    @property
    def event_fd(self) -> int:
        """Readable (poll) from the waking packet until `take_event`; valid until `close`."""
        return self._whole().events_fd

    def take_event(self) -> Waking | None:
        """The packet that wakes the pod; None if none came since `arm`, or it was taken."""
        return self._whole().take_event()

    def arm(self, *, speaking: bool = False) -> None:
        """Holds what goes to the pod and drops what its kernel says.

        Where it does already, say after a wake that failed, the next waking packet raises an event
        again; those that are held do not, and an event that nobody has taken stays.

        Args:
            speaking: lets out what the pod says until `hush`. While its programs still run they
                answer what they have got. An answer that is lost is sent again only after its
                socket's timeout, and that is a second for a socket that was restored.

        Raises:
            Unavailable: packets of the last sleep are still on their way to the pod.
            Refused: the pod has moved away.
        """
        installed = self._whole()
        phase = installed.phase()
        if phase is Phase.SPEAKING and not speaking:
            installed.set_phase(Phase.HELD)
        if phase in (Phase.HELD, Phase.SPEAKING):
            installed.listen_again()
            return
        if phase in (Phase.FORWARDING, Phase.FORWARD):
            raise Refused(
                "its packets go where the pod has moved", where=self.hold_id, remedy="remove it"
            )
        settings = installed.settings()
        if self._settle(installed, settings, _DRAIN_S) is Phase.RELEASING:
            raise Unavailable("the last release has not ended", where=self.hold_id)
        plug.close(settings.plug_ifindex, _limit_bytes(settings.max_bytes))
        installed.rearm()
        installed.set_phase(Phase.SPEAKING if speaking else Phase.HELD)

    def hush(self) -> None:
        """Drops from now on what the pod's kernel says. Nothing where nothing is held."""
        installed = self._whole()
        if installed.phase() is Phase.SPEAKING:
            installed.set_phase(Phase.HELD)

    def speak(self) -> None:
        """Lets the pod's own packets out while those to it are still held.

        For a pod that has come from another node: between its resume and the release, what its
        sockets say must not be dropped. Nothing where nothing is held.
        """
        installed = self._whole()
        if installed.phase() is Phase.HELD:
            installed.set_phase(Phase.SPEAKING)

    def release_actions(self) -> ReleaseActions:
        """What `release` does, for another process; the map's fd is valid until `close`."""
        installed = self._whole()
        settings = installed.settings()
        releasing = struct.pack("=I", Phase.RELEASING)
        return ReleaseActions(
            (MapUpdate(installed.phase_fd, bytes(4), releasing),),
            plug.opening(settings.plug_ifindex, _limit_bytes(settings.max_bytes)),
        )

    def release(self) -> None:
        """Lets the held packets go to the pod, then the later ones; nothing if none are held.

        Also ends a release that another process did by half, and undoes a forwarding where the pod
        that has moved is handed back.
        """
        installed = self._whole()
        if installed.phase() is Phase.PASS:
            return
        installed.set_phase(Phase.RELEASING)
        plug.send(self.release_actions().messages)

    def aim(self, *vias: Via) -> None:
        """Prepares `forward`, while the pod still runs here; nothing happens to its packets.

        But for one thing: senders learn how long a packet a tunnel carries. What is longer after
        the freeze is refused, which costs its sender a round trip, and a datagram.

        Args:
            vias: the ways; one that carries each of the pod's address families is needed.

        Raises:
            Refused: a family has no way, or its device is gone.
            NativeError: ENOTSUP, the hold was made by a version that cannot forward.
        """
        installed = self._whole()
        settings = installed.settings()
        bridge = plug.bridge_of(settings.pod_ifindex)
        home = bridge[0] if bridge is not None else settings.pod_ifindex
        messages: list[bytes] = []
        pace = None
        for address in sorted(installed.addresses(), key=str):
            via = ways.choose(vias, address.version)
            if via is None:
                raise Refused(
                    f"no way is given for IPv{address.version} packets", where=self.hold_id
                )
            target = via.target()
            if bridge is not None:
                target = replace(target, bounce_ifindex=bridge[0], bounce_mac=bridge[1])
            installed.set_target(address.version, target)
            messages += via.neighbour()
            if via.mtu:
                messages.append(routes.limit(address, home, via.mtu))
            pace = min(pace or _UINT32_MAX, plug.pace_of(via.device))
        plug.send(messages)
        limit_bytes = _limit_bytes(settings.max_bytes)
        assert pace is not None, "a hold has addresses"
        self._aimed = (*messages, *plug.opening(settings.plug_ifindex, limit_bytes, pace))
        self._aimed_at = vias

    def forward(self, *vias: Via) -> None:
        """Sends what is held to where the pod has moved, in order, then the later packets.

        What the old namespace still says is dropped, as in its sleep. Returns at once; see
        `wait_forwarded`. May be called again, also with another way: the pod has moved on.

        Args:
            vias: the ways, as for `aim`; none for those it was aimed at. Where they are the same,
                nothing is prepared now.

        Raises:
            Refused: neither ways are given nor was it aimed; else as `aim`.
        """
        installed = self._whole()
        if vias and vias != self._aimed_at:
            self.aim(*vias)
        if not self._aimed:
            raise Refused("the hold was not aimed", where=self.hold_id, remedy="give the ways")
        *before, opening, frame = self._aimed
        plug.send(before)
        if installed.phase() is not Phase.FORWARD:
            installed.set_phase(Phase.FORWARDING)
        plug.send((opening, frame))

    def wait_forwarded(self, deadline_s: float) -> bool:
        """Waits until nothing is left in the plug, so that later packets need not go through it.

        Args:
            deadline_s: how long at most, in seconds.
        """
        installed = self._whole()
        return self._settle(installed, installed.settings(), deadline_s) is Phase.FORWARD

    @property
    def targets(self) -> dict[int, Target]:
        """Where packets go while they are forwarded, by IP version; empty if they are not."""
        installed = self._whole()
        if installed.phase() not in (Phase.FORWARDING, Phase.FORWARD):
            return {}
        found = {version: installed.target(version) for version in (4, 6)}
        return {version: target for version, target in found.items() if target is not None}

    def remove(self) -> None:
        """Lets go of what is held, then takes off all there is of it; may be called again.

        Held packets go to the pod, or where it has moved. Remove the hold of a pod that has moved
        only when its old namespace can no longer answer: with the namespace, or after `flip.point`.
        """
        if self._installed is not None:
            # A hold without its devices has nothing to release.
            with contextlib.suppress(NativeError):
                if self._installed.phase() in (Phase.FORWARDING, Phase.FORWARD):
                    plug.send(self.release_actions().messages)
                    self._wait_until_drained(self._installed)
                elif self._installed.phase() is not Phase.PASS:
                    self.release()
                    self._settle(self._installed, self._installed.settings(), _DRAIN_S)
                    self._installed.set_phase(Phase.PASS)
                    self._wait_until_drained(self._installed)
            self._installed.close()
            self._installed = None
        _take_away(self.hold_id, self.pin_dir)

    def _whole(self) -> InstalledHold:
        if self._installed is None:
            raise Refused("the hold is incomplete", where=str(self.pin_dir), remedy="remove it")
        return self._installed

    @staticmethod
    def _settle(installed: InstalledHold, settings: Settings, deadline_s: float) -> Phase:
        """Waits for the end of a release, also where no packet ends it: nobody may be speaking."""
        until_s = time.monotonic() + deadline_s
        while (phase := installed.settle()) in (Phase.RELEASING, Phase.FORWARDING):
            if time.monotonic() > until_s:
                break
            # It ends on the CPU where something last came out of the plug: let that be this one.
            if installed.counters().held_packets == 0:
                plug.kick(settings.plug_ifindex)
                if installed.settle() is not phase:
                    continue
            time.sleep(_DRAIN_STEP_S)
        return phase

    @staticmethod
    def _wait_until_drained(installed: InstalledHold) -> bool:
        deadline_s = time.monotonic() + _DRAIN_S
        while installed.counters().held_packets > 0:
            if time.monotonic() > deadline_s:
                return False
            time.sleep(_DRAIN_STEP_S)
        return True


def _checked(hold_id: str) -> str:
    if not _ID.fullmatch(hold_id):
        raise InvalidInput(
            f"{hold_id!r} cannot name a hold", remedy="use up to 64 letters, digits, - and _"
        )
    return hold_id


def _limit_bytes(max_bytes: int) -> int:
    """The qdisc's own bound, wide enough that the programs' bound is met first."""
    return min(2 * max_bytes + _LIMIT_SLACK_BYTES, _UINT32_MAX)


def _device_of(netns: Path, address: Address, device: str | None) -> tuple[int, bytes, Flag]:
    if device is not None:
        return socket.if_nametoindex(device), bytes(6), Flag.SHARED_DEVICE
    try:
        inner = native.find_device(netns, address)
    except NativeError as error:
        if error.errno_value == errno.ENODEV:
            raise Refused(error.what, remedy="give the addresses of this pod") from error
        raise
    outer = plug.link_facts(inner.peer_ifindex) if inner.peer_ifindex else None
    if outer is None or outer["kind"] != "veth" or outer["peer_ifindex"] != inner.ifindex:
        raise Refused(
            "the device that bears the pod's address has no veth end in this network namespace",
            where=str(netns),
            remedy="name the device towards the pod",
        )
    return inner.peer_ifindex, inner.mac, Flag.DELIVER_PEER


def _is_device(ifindex: int) -> bool:
    try:
        socket.if_indextoname(ifindex)
    except OSError:
        return False
    return True


def _take_away(hold_id: str, pin_dir: Path) -> None:
    # Programs first, so that no packet goes into a plug without an end; the directory is kept until
    # all else is gone, since an interrupted removal is found by it.
    native.uninstall(pin_dir)
    plug.remove(hold_id)
    with contextlib.suppress(FileNotFoundError):
        pin_dir.rmdir()
