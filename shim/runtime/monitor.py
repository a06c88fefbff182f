# SPDX-License-Identifier: Apache-2.0
"""Asks container monitors over their control sockets; owns connections, decides nothing."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from shim.errors import InvalidMessage, NotFound, PodferryError, Refused, Unavailable
from shim.runtime import monitor_wire as wire
from shim.runtime.monitor_wire import Event, Flag, Item, Packet, Snapshot, Status, Verb

STATE_ROOT = Path("/run/podferry/monitors")
ANSWER_TIMEOUT_S = 5.0
CHANGE_TIMEOUT_S = 75.0  # longer than a monitor gives CRIU


class MonitorRefused(Refused):
    """A monitor does not do what it was asked for; ``status`` says of what kind the reason is."""

    def __init__(self, what: str, *, where: str, status: Status) -> None:
        super().__init__(what, where=where)
        self.status = status


class CriuFailed(PodferryError):
    """CRIU did not do it; its log in the work directory says more."""


@dataclass(frozen=True, slots=True)
class Pager:
    """How a wake starts the pager.

    Attributes:
        argv: its command line without what the monitor adds (``--monitor-fd``, ``--resume``); the
            first word is an absolute path.
        descriptors: given to it as 20, 21, ...
    """

    argv: tuple[str, ...]
    descriptors: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Arming:
    """All that a later wake needs.

    Attributes:
        request: CRIU's request, a serialized ``criu_req`` of type RESTORE with ``rst_sibling``.
        criu_descriptors: CRIU finds them as 20, 21, ...; 10, 11, 12 are the container's stdio.
        namespaces: descriptors of namespaces that CRIU enters, in order, before it starts.
        triggers: each wakes the container once it is readable.
        pager: how memory is filled; None if CRIU does it.
        maps: (descriptor of a BPF map, key, value or None to delete), done after the restore.
        netlink: (descriptor of a socket, message).
        writes: (path, value) of control files of the kernel.
        remove_images: whether the images go once all memory is in.
        prepare: whether CRIU and the pager are started now and wait, so that the wake is faster;
            for a container that sleeps and whose image is whole.
    """

    request: bytes
    criu_descriptors: tuple[int, ...] = ()
    namespaces: tuple[int, ...] = ()
    triggers: tuple[int, ...] = ()
    pager: Pager | None = None
    maps: tuple[tuple[int, bytes, bytes | None], ...] = ()
    netlink: tuple[tuple[int, bytes], ...] = ()
    writes: tuple[tuple[str, bytes], ...] = ()
    remove_images: bool = False
    prepare: bool = False


@dataclass(slots=True)
class _Descriptors:
    """Collects what a packet carries beside itself; each once."""

    all: list[int] = field(default_factory=list)

    def index(self, descriptor: int) -> int:
        if descriptor not in self.all:
            self.all.append(descriptor)
        return self.all.index(descriptor)

    def indexes(self, descriptors: Sequence[int]) -> bytes:
        return wire.indexes([self.index(one) for one in descriptors])


class Monitor:
    """One connection to one container's monitor; an asynchronous context manager.

    Args:
        directory: the monitor's state directory.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._socket: socket.socket | None = None
        self._tag = 0

    async def __aenter__(self) -> Self:
        self.connect()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def connect(self) -> None:
        """Dials; it does not block, as the kernel completes it.

        Raises:
            NotFound: there is no monitor of that container.
            Unavailable: its monitor is dead.
        """
        made = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        try:
            # The whole path may be longer than a socket's address.
            directory = os.open(self.directory, os.O_PATH | os.O_DIRECTORY)
            try:
                made.connect(f"/proc/self/fd/{directory}/control")
            finally:
                os.close(directory)
        except FileNotFoundError as error:
            made.close()
            raise NotFound("no container monitor", where=str(self.directory)) from error
        except OSError as error:
            made.close()
            raise Unavailable(
                f"the container monitor does not answer: {error}", where=str(self.directory)
            ) from error
        self._socket = made

    def close(self) -> None:
        """Hangs up; a lease ends with that."""
        if self._socket is not None:
            self._socket.close()
        self._socket = None

    async def state(self) -> Snapshot:
        """What the container does."""
        return (await self._ask(Verb.STATE)).snapshot()

    async def lease(self, *, awake: bool = False) -> Snapshot:
        """Keeps the container as it is until this connection ends; wakes it first if asked."""
        flags = Flag.AWAKE if awake else Flag.NONE
        return (await self._ask(Verb.LEASE, flags=flags, timeout_s=CHANGE_TIMEOUT_S)).snapshot()

    async def checkpoint(
        self,
        request: bytes,
        *,
        images: str = "",
        leave_running: bool = False,
        descriptors: Sequence[int] = (),
        namespaces: Sequence[int] = (),
        timeout_s: float = 60.0,
        flags: Flag = Flag.NONE,
    ) -> Snapshot:
        """Has CRIU dump it; afterwards it sleeps, unless it is left running.

        Args:
            request: a serialized ``criu_req`` of type DUMP, or PRE_DUMP if left running.
            images: the images' directory, which goes with the container.
            leave_running: as the request says.
            descriptors: CRIU finds them as 20, 21, ...; 10, 11, 12 are the container's stdio.
            namespaces: descriptors of namespaces that CRIU enters, in order, before it starts.
            timeout_s: how long CRIU may take.
            flags: more of the verb's.

        Raises:
            MonitorRefused: the container is in no state for it; nothing was touched.
            CriuFailed: it failed; the container runs on.
        """
        carried = _Descriptors()
        items = [
            (Item.REQUEST, request),
            (Item.TIMEOUT_MS, int(timeout_s * 1000).to_bytes(4, "little")),
            (Item.CRIU_FDS, carried.indexes(descriptors)),
            (Item.CRIU_NAMESPACES, carried.indexes(namespaces)),
        ]
        if images:
            items.append((Item.IMAGES, images.encode()))
        flags |= Flag.LEAVE_RUNNING if leave_running else Flag.NONE
        answer = await self._ask(
            Verb.CHECKPOINT, items, carried.all, flags=flags, timeout_s=timeout_s + 15.0
        )
        return answer.snapshot()

    async def arm(self, arming: Arming) -> Snapshot:
        """Says how to wake it; before a checkpoint, so that it never sleeps without."""
        carried = _Descriptors()
        items = [
            (Item.REQUEST, arming.request),
            (Item.CRIU_FDS, carried.indexes(arming.criu_descriptors)),
            (Item.CRIU_NAMESPACES, carried.indexes(arming.namespaces)),
            (Item.TRIGGERS, carried.indexes(arming.triggers)),
        ]
        if arming.pager is not None:
            words = "".join(f"{word}\0" for word in arming.pager.argv)
            items.append((Item.PAGER_ARGV, words.encode()))
            items.append((Item.PAGER_FDS, carried.indexes(arming.pager.descriptors)))
        items += [wire.map_action(carried.index(fd), k, v) for fd, k, v in arming.maps]
        items += [wire.netlink_action(carried.index(fd), m) for fd, m in arming.netlink]
        items += [wire.write_action(path, value) for path, value in arming.writes]
        flags = Flag.REMOVE_IMAGES if arming.remove_images else Flag.NONE
        flags |= Flag.READY if arming.prepare else Flag.NONE
        return (await self._ask(Verb.ARM, items, carried.all, flags=flags)).snapshot()

    async def disarm(self) -> Snapshot:
        """Forgets how to wake it, and closes what was passed for that."""
        return (await self._ask(Verb.DISARM)).snapshot()

    async def wake(self) -> Snapshot:
        """Wakes it; returns once it runs. Nothing happens if it does already.

        Raises:
            MonitorRefused: it was not armed.
            CriuFailed: it sleeps on.
        """
        return (await self._ask(Verb.WAKE, timeout_s=CHANGE_TIMEOUT_S)).snapshot()

    # ---- a move, on the node that is left (docs/monitor.md)

    async def hold_checkpoint(
        self,
        request: bytes,
        *,
        images: str = "",
        descriptors: Sequence[int] = (),
        namespaces: Sequence[int] = (),
        timeout_s: float = 60.0,
    ) -> Snapshot:
        """Has CRIU dump it and stay; the container stands still, HELD, until resume or depart.

        Whoever asked may go away: nothing but those two verbs, or its end, changes that.

        Raises:
            MonitorRefused: the container is in no state for it; nothing was touched.
            CriuFailed: it failed; the container runs on.
        """
        return await self.checkpoint(
            request,
            images=images,
            descriptors=descriptors,
            namespaces=namespaces,
            timeout_s=timeout_s,
            flags=Flag.HOLD,
        )

    async def resume(self) -> Snapshot:
        """Lets a held container run on; returns once it runs. May be asked again.

        Raises:
            MonitorRefused: it is not held, or has departed.
        """
        return (await self._ask(Verb.RESUME, timeout_s=CHANGE_TIMEOUT_S)).snapshot()

    async def depart(self, status: int = 0) -> Snapshot:
        """Ends a held container for good, silently; returns once it is gone. May be asked again.

        Args:
            status: what the monitor ends with if it is stopped before ``exit`` is asked.

        Raises:
            MonitorRefused: it is not held.
        """
        item = (Item.STATUS, status.to_bytes(4, "little"))
        return (await self._ask(Verb.DEPART, [item], timeout_s=CHANGE_TIMEOUT_S)).snapshot()

    async def exit(self, status: int | None = None) -> None:
        """Ends the monitor of a departed or claimed container; containerd sees the container exit.

        Args:
            status: the exit status, 0 to 255; None is the one that ``depart`` has named, or 0.

        Raises:
            MonitorRefused: it is in another state.
        """
        items = [] if status is None else [(Item.STATUS, status.to_bytes(4, "little"))]
        await self._ask(Verb.EXIT, items)

    # ---- a move, on the node that is reached

    async def claim(self) -> Snapshot:
        """Keeps a created container from being started, for another's arrival. May be repeated.

        Raises:
            MonitorRefused: it has been started.
        """
        return (await self._ask(Verb.CLAIM)).snapshot()

    async def unclaim(self) -> Snapshot:
        """Gives a claimed container back: it starts cold if its start was asked, or may be started.

        Raises:
            MonitorRefused: it is not claimed (a staged one must be dropped first).
        """
        return (await self._ask(Verb.UNCLAIM)).snapshot()

    async def prepare(
        self, *, namespaces: Sequence[int] = (), environment: Mapping[str, str] | None = None
    ) -> Snapshot:
        """Starts CRIU ahead: for a claimed and armed container, or for a dump of one that runs.

        CRIU gets its namespaces now; its request comes from the last ``arm``, or with
        ``hold_checkpoint``. ``disarm`` ends it again.

        Args:
            namespaces: of a container that runs, as ``checkpoint`` wants them.
            environment: more of CRIU's, of a container that runs.

        Raises:
            MonitorRefused: it neither runs nor is claimed and armed.
        """
        carried = _Descriptors()
        items = [(Item.CRIU_NAMESPACES, carried.indexes(namespaces))] if namespaces else []
        if environment:
            lines = (f"{name}={value}\0" for name, value in environment.items())
            items.append((Item.CRIU_ENVIRONMENT, "".join(lines).encode()))
        return (await self._ask(Verb.PREPARE, items, carried.all)).snapshot()

    async def stage(self) -> Snapshot:
        """Restores into a claimed and armed container, up to the point where it would run: STAGED.

        Raises:
            MonitorRefused: it is not claimed or not armed.
            CriuFailed: it is claimed as before.
        """
        answer = await self._ask(Verb.WAKE, flags=Flag.STAGE, timeout_s=CHANGE_TIMEOUT_S)
        return answer.snapshot()

    async def go(self) -> Snapshot:
        """Lets a staged container run; returns once it runs. May be asked again.

        Raises:
            MonitorRefused: it is not staged, and does not run by a move.
            CriuFailed: it is claimed, what was made is gone.
        """
        return (await self._ask(Verb.GO, timeout_s=CHANGE_TIMEOUT_S)).snapshot()

    async def drop(self) -> Snapshot:
        """Ends what was staged, or is being staged; it is claimed as before. May be repeated.

        Raises:
            MonitorRefused: it is not claimed, or has been told to go.
        """
        return (await self._ask(Verb.DROP, timeout_s=CHANGE_TIMEOUT_S)).snapshot()

    async def subscribe(self) -> Snapshot:
        """Has this connection told of every change of state; gives the state before the first."""
        return (await self._ask(Verb.SUBSCRIBE)).snapshot()

    async def kill(self) -> bool:
        """Ends a container that does not run: asleep, held, departed, claimed or staged.

        Returns:
            False if it runs, or was created and is not claimed: then ending it is the runtime's.
        """
        try:
            await self._ask(Verb.KILL, timeout_s=CHANGE_TIMEOUT_S)
        except MonitorRefused as error:
            if error.status is Status.WRONG_STATE:
                return False
            raise
        return True

    async def events(self) -> AsyncIterator[Event]:
        """Every change of state since `subscribe`; ends with the monitor."""
        while (packet := await self._receive()) is not None:
            if packet.verb == Verb.EVENT:
                yield packet.event()

    # ---- one question, one answer

    async def _ask(
        self,
        verb: Verb,
        items: Sequence[tuple[Item, bytes]] = (),
        descriptors: Sequence[int] = (),
        *,
        flags: int = 0,
        timeout_s: float = ANSWER_TIMEOUT_S,
    ) -> Packet:
        self._tag += 1
        packet = wire.compose(verb, items, tag=self._tag, flags=flags)
        if len(descriptors) > wire.DESCRIPTORS_MAX:
            raise InvalidMessage(f"{len(descriptors)} descriptors are more than a monitor takes")
        where = str(self.directory)
        try:
            socket.send_fds(self._connected, [packet], list(descriptors))
            async with asyncio.timeout(timeout_s):
                answer = await self._receive()
                while answer is not None and answer.tag != self._tag:
                    answer = await self._receive()
        except TimeoutError as error:
            raise Unavailable(f"no answer to {verb.name} in {timeout_s} s", where=where) from error
        except OSError as error:
            raise Unavailable(f"{verb.name} cannot be asked: {error}", where=where) from error
        if answer is None:
            raise Unavailable(f"the container ended before it answered {verb.name}", where=where)
        if answer.status == Status.CRIU_FAILED:
            raise CriuFailed(answer.text or "CRIU failed", where=where)
        if answer.status != Status.OK:
            what = answer.text or f"its monitor refuses {verb.name}"
            raise MonitorRefused(what, where=where, status=Status(answer.status))
        return answer

    async def _receive(self) -> Packet | None:
        loop = asyncio.get_running_loop()
        data = await loop.sock_recv(self._connected, wire.PACKET_BYTES)
        return wire.parse(data) if data else None

    @property
    def _connected(self) -> socket.socket:
        if self._socket is None:
            raise Unavailable("not connected to the monitor", where=str(self.directory))
        return self._socket


def find(container_id: str, namespace: str = "k8s.io", root: Path = STATE_ROOT) -> Path:
    """The state directory of a container's monitor, whether it lives or not."""
    return root / namespace / container_id


def all_monitored(namespace: str = "k8s.io", root: Path = STATE_ROOT) -> list[str]:
    """The ids of the containers that have a monitor."""
    try:
        return sorted(one.name for one in (root / namespace).iterdir())
    except FileNotFoundError:
        return []
