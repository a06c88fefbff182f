# SPDX-License-Identifier: Apache-2.0
"""The node service: makes the parts, starts and stops them, and passes the socket to a successor.

Phases: starting, serving, retiring (a successor has the socket; open calls are finished), stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from cri_proto import control_pb2_grpc
from cri_proto import runtime_v1_pb2 as cri
from shim.checkpoint import pods
from shim.checkpoint.journal import SleepJournal
from shim.checkpoint.sleeping import Sleeping
from shim.core.calls import CallLedger
from shim.core.policy import Policy
from shim.core.registry import Registry
from shim.core.rules import Rule, RuleBook
from shim.errors import HandoverRefused, PodferryError, Refused
from shim.network import mptcp
from shim.rules.checkpoint import Checkpoint, CheckpointAnswer
from shim.rules.hold import Hold
from shim.rules.keep import Keep
from shim.rules.plain_tcp import PlainTcp
from shim.rules.remember import Remember
from shim.rules.settle import Settle
from shim.rules.wake import Wake
from shim.runtime import containerd
from shim.runtime.options import channel_options, server_options
from shim.runtime.recipes import Recipes
from shim.runtime.recollection import Recollection
from shim.server import calllog, deferred
from shim.server.control import Control, installed_version
from shim.server.interception import Interception
from shim.server.metrics import Metrics
from shim.server.notify import notify, watchdog_interval_s
from shim.server.passthrough import Passthrough
from shim.server.predecessor import Predecessor, control_path
from shim.server.sockets import ONLY_US, Listener, PublicSocket, ownership_of, probe
from shim.server.successor import Successor, own_command
from shim.settings import Settings

if TYPE_CHECKING:
    from shim.migration.moves import Moves

logger = logging.getLogger(__name__)

SELF_CHECK_S = 0.5
START_TIMEOUT_S = 120.0
ORPHANED_S = 3.0
"""How long a process that was replaced bears that nobody serves; a restart takes under one."""
TAKEOVER_RECALL_S = 5.0
METRICS_ADDRESS_TRIES = 50
METRICS_RETRY_S = 0.2


class Service:
    """One process of the service.

    Args:
        settings: the node's settings.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.phase = "starting"
        self.ledger = CallLedger(
            lambda error: logger.error("watcher of calls failed", exc_info=error)
        )
        self.registry = Registry()
        self.channel = grpc.aio.insecure_channel(
            f"unix:{settings.cri.runtime}", options=channel_options()
        )
        self.recollection = Recollection(self.channel, self.registry, self._follow_runtime)
        self.hold_rule = Hold()
        self.sleeping = Sleeping(
            Path(settings.sleep.images_dir),
            Path(settings.service.run_dir),
            SleepJournal(Path(settings.service.state_dir) / "sleep"),
            lambda sandbox_id: containerd.addresses(self.channel, sandbox_id),
            lambda container_id: containerd.end_container(self.channel, container_id),
            prepare=settings.sleep.prepare_wake,
        )
        self.recipes = Recipes(Path(settings.service.run_dir) / "recipes")
        self.moves = self._make_moves()
        book = RuleBook(
            [
                Settle(self.registry, self.recollection),
                Remember(self.registry, self.recollection.doubt),
                PlainTcp(_policy(settings), _plain_tcp),
                self.hold_rule,
                Keep(self.recipes, _policy(settings)),
                *self._rules_of_moves(),
                Wake(self.sleeping),
                Checkpoint(self._write_checkpoint),
                CheckpointAnswer(),
            ]
        )
        self.interception = Interception(book, self.recollection.doubt)
        self.metrics = Metrics(self.ledger, self.registry, self.recollection, self.interception)
        self._cri = grpc.aio.server(options=server_options(settings.cri.connection_age_s))
        self._cri.add_generic_rpc_handlers(
            (Passthrough(self.channel, self.ledger, self.interception),)
        )
        self._control = grpc.aio.server()
        control_pb2_grpc.add_ControlServicer_to_server(Control(self), self._control)
        self._cri_socket = PublicSocket(Path(settings.cri.listen))
        self._control_socket = PublicSocket(control_path(settings.service.run_dir))
        self._predecessor: Predecessor | None = None
        self._successor: Successor | None = None
        self._stop = asyncio.Event()
        self._retired = asyncio.Event()
        self._background: set[asyncio.Task[None]] = set()

    async def run(self, *, takeover: bool = False) -> None:
        """Serves until SIGTERM, or until a successor has taken over and all calls are done.

        Args:
            takeover: whether to take the socket from a running service.

        Raises:
            SocketInUse: a living process serves the socket and this is no takeover.
            HandoverRefused: there is no service to take over from.
            InvalidInput: a socket path cannot be one.
        """
        calllog.start(self.ledger)
        self._bind()
        await self._cri.start()
        await self._control.start()
        self._spawn(self.recollection.run())
        try:
            if takeover:
                await self._take_over()
            else:
                self._publish(from_pid=0)
            self.phase = "serving"
            logger.info("serving socket=%s runtime=%s pid=%d", self.settings.cri.listen,
                        self.settings.cri.runtime, os.getpid())  # fmt: skip
            self._spawn(self.sleeping.recover())
            if self.moves is not None:
                self._spawn(self._start_moves(self.moves))
            self._spawn(self._listen_for_metrics())
            self._spawn(self._guard_sockets())
            self._spawn(self._feed_watchdog())
            self._spawn(deferred.load())
            for signal_number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(signal_number, self._stop.set)
            notify(f"MAINPID={os.getpid()}", "READY=1", "STATUS=serving")
            await self._stop.wait()
        finally:
            await self._shut_down()

    def _bind(self) -> None:
        # The directory is private and so is the name, so the umask only guards against its owner.
        previous = os.umask(0o177)
        try:
            for server, sock in (
                (self._cri, self._cri_socket),
                (self._control, self._control_socket),
            ):
                os.umask(0o022)
                sock.prepare()
                os.umask(0o177)
                server.add_insecure_port(sock.address)
        finally:
            os.umask(previous)

    def _make_moves(self) -> Moves | None:
        if not self.settings.peers.listen:
            return None
        # Imported only where pods move: it brings the network's part and the streams.
        from shim.migration.moves import Moves

        return Moves(self.settings, self.channel, self.recipes, installed_version())

    def _rules_of_moves(self) -> list[Rule]:
        if self.moves is None:
            return []
        from shim.rules.claim import Claim, ClaimAnswer
        from shim.rules.departed import Departed

        moves = self.moves

        def removed(sandbox_id: str) -> None:
            self._spawn(moves.sandbox_removed(sandbox_id))

        claim = Claim(moves.target, self._start_container)
        return [Departed(moves.source, removed), claim, ClaimAnswer()]

    async def _start_moves(self, moves: Moves) -> None:
        self.metrics.collectors.register(moves.metrics)
        try:
            await moves.start()
        except (PodferryError, OSError) as error:
            # CRI goes on: peers that are not there are no reason for kubelet to lose its runtime.
            logger.critical("pods do not move error=%s", error)

    def require_moves(self) -> Moves:
        """The moves of this node.

        Raises:
            Refused: pods do not move here.
        """
        if self.moves is None:
            raise Refused(
                "this node has no peers", where="[peers] listen",
                remedy="set [peers] listen and nodes, and make certificates by `podferry pki`",
            )  # fmt: skip
        return self.moves

    def _publish(self, from_pid: int) -> None:
        ownership = ownership_of(Path(self.settings.cri.runtime)) or ONLY_US
        with self._cri_socket.claim(from_pid=from_pid):
            self._cri_socket.publish(ownership)
        with self._control_socket.claim(from_pid=from_pid):
            self._control_socket.publish(ONLY_US)

    def _follow_runtime(self) -> None:
        # Called when the runtime is reached: its socket may have been made anew, with other rights.
        ownership = ownership_of(Path(self.settings.cri.runtime))
        if ownership and self.phase != "starting":
            self._cri_socket.follow(ownership)

    async def _start_container(self, container_id: str) -> None:
        request = cri.StartContainerRequest(container_id=container_id)
        await containerd.call(self.channel, "StartContainer", request, START_TIMEOUT_S)

    async def _write_checkpoint(self, container_id: str, location: str) -> None:
        from shim.checkpoint import archive  # see shim.server.deferred

        status = await containerd.container_status(self.channel, container_id)
        work_dir = Path(self.settings.service.run_dir) / "checkpoints"
        await archive.write(container_id, status, location, work_dir)

    # ---- handover, the successor's side

    async def _take_over(self) -> None:
        predecessor = Predecessor(control_path(self.settings.service.run_dir))
        status = await predecessor.status()
        await self.recollection.settled(TAKEOVER_RECALL_S)
        for hold in status.holds:
            if hold.remaining_s > 0:
                self.hold_rule.adopt(
                    hold.hold_id, hold.pod, hold.container, hold.methods, hold.remaining_s
                )
        self._publish(from_pid=status.pid)
        # systemd learns of its new main process only after this: should we die here, the
        # predecessor puts its sockets back, and nothing must be restarted in its way.
        await predecessor.retire(os.getpid())
        self._predecessor = predecessor
        logger.info("took the socket over predecessor=%d", status.pid)

    async def release_in_predecessor(self, hold_id: str) -> int:
        """Lets go the calls that wait in a process that this one replaced; 0 if there is none."""
        return await self._predecessor.release(hold_id) if self._predecessor else 0

    # ---- handover, the predecessor's side

    async def start_successor(self, at_most_s: float) -> int:
        """Starts this program anew, as it is on disk now, and waits until it serves the socket.

        Args:
            at_most_s: how long the successor may take.

        Returns:
            Its pid.

        Raises:
            Refused: a handover is under way already.
            HandoverRefused: the successor ended or did not serve in time; this process serves on.
        """
        if self._successor is not None or self.phase != "serving":
            raise Refused("a handover is under way", where="handover", remedy="wait for its end")
        if self.moves is not None and self.moves.is_busy:
            raise Refused(
                "a pod is on its way", where="handover",
                remedy="wait until `podferry migrations` shows no move under way",
            )  # fmt: skip
        self._successor = Successor(own_command())
        # Shielded: who asked may go away, but what was begun must be seen through to its end, or
        # this process would neither guard its sockets nor accept a handover ever again.
        work = asyncio.create_task(self._watch_successor(self._successor, at_most_s))
        failure = await asyncio.shield(work)
        if failure is not None:
            raise failure
        return self._successor.pid

    async def _watch_successor(
        self, successor: Successor, at_most_s: float
    ) -> HandoverRefused | None:
        exited = asyncio.create_task(successor.ended())
        retired = asyncio.create_task(self._retired.wait())
        await asyncio.wait(
            {exited, retired}, timeout=at_most_s, return_when=asyncio.FIRST_COMPLETED
        )
        retired.cancel()
        if self._retired.is_set():
            exited.cancel()
            return None
        how = "killed: too slow"
        if exited.done():
            how = f"exit status {exited.result()}"
        else:
            successor.kill()
            await exited
        self._successor = None
        logger.warning("successor did not come to serve pid=%d how=%s", successor.pid, how)
        with contextlib.suppress(Refused, OSError):  # the guard goes on trying
            self._put_sockets_back()
        return HandoverRefused(
            f"the successor did not come to serve ({how})",
            where="handover",
            remedy="the running service serves on; the successor's reason is in the log above",
        )

    def refuse_while_handing_over(self) -> None:
        """Raises Refused between a successor's reading of our holds and its taking of the socket.

        A hold made or released here in that time would be neither made nor released there.
        """
        if self._successor is not None and self.phase == "serving":
            raise Refused("a handover is under way", where="hold", remedy="ask again in a moment")

    def retire(self, successor_pid: int) -> None:
        """Notes that a successor serves: finish the open calls, then stop."""
        if self.phase == "retiring":
            return
        self.phase = "retiring"
        logger.info("retiring successor=%d calls=%d", successor_pid, len(self.ledger.in_flight))
        self._retired.set()
        self._spawn(self.sleeping.close())  # the successor has them now
        if self.moves is not None:
            self._spawn(self.moves.close())
        self._spawn(self._linger())

    async def _linger(self) -> None:
        await asyncio.to_thread(self.metrics.close)
        # Every client of ours has been told to reconnect after one connection age, give or take a
        # tenth (gRPC A9), and thereby reaches the successor.
        now_s = asyncio.get_running_loop().time
        reached_s = now_s() + self.settings.cri.connection_age_s * 1.1 + 1.0
        give_up_s = reached_s + self.settings.service.linger_calls_s
        served_s = now_s()
        while now_s() < reached_s or (self.ledger.finite_in_flight() and now_s() < give_up_s):
            await asyncio.sleep(SELF_CHECK_S)
            if (await asyncio.to_thread(probe, self._cri_socket.public))[0] is Listener.ALIVE:
                served_s = now_s()
            elif now_s() > served_s + ORPHANED_S:
                # The successor is gone, and systemd, had it known of it, would have started another
                # long ago: so systemd takes this process for the service, and acts when it ends.
                logger.warning("nobody serves the socket, so this process ends now")
                break
        logger.info("retired calls_cut=%d", len(self.ledger.in_flight))
        self._stop.set()

    def _put_sockets_back(self) -> None:
        for sock in (self._cri_socket, self._control_socket):
            if not sock.is_in_place():
                self._publish(from_pid=0)
                logger.warning("socket put back path=%s", sock.public)
                return

    # ---- background

    async def _guard_sockets(self) -> None:
        # Somebody may remove the path, or a successor may die between renaming and serving. A
        # living process at the path is never pushed aside.
        while self.phase == "serving":
            await asyncio.sleep(SELF_CHECK_S)
            if not (self._cri_socket.is_bound() and self._control_socket.is_bound()):
                # grpc.aio shuts a server whose accepting loop breaks, which a single call with a
                # method name that is no UTF-8 does (seen with 1.85.1), and tells nobody.
                raise PodferryError("gRPC has given up a socket", where=self.settings.cri.listen)
            # containerd listens first and sets owner and mode then; we may have looked in between.
            self._follow_runtime()
            if self._successor is None:
                with contextlib.suppress(Refused, OSError):
                    self._put_sockets_back()

    async def _feed_watchdog(self) -> None:
        interval_s = watchdog_interval_s()
        while interval_s and self.phase == "serving":
            notify("WATCHDOG=1", patience_s=0.0)  # the next one does as well
            await asyncio.sleep(interval_s)

    async def _listen_for_metrics(self) -> None:
        # A predecessor gives the address up only after it has heard that it may retire.
        for _ in range(METRICS_ADDRESS_TRIES if self._predecessor else 1):
            if self.metrics.listen(self.settings.metrics.listen):
                return
            await asyncio.sleep(METRICS_RETRY_S)

    def _spawn(self, work: object) -> None:
        task: asyncio.Task[None] = asyncio.ensure_future(work)  # type: ignore[call-overload]
        self._background.add(task)
        task.add_done_callback(self._background_ended)

    def _background_ended(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        if not task.cancelled() and task.exception() is not None:
            # Without its background parts the service would lie; a new process is better.
            logger.critical("background part failed", exc_info=task.exception())
            self._stop.set()

    async def _shut_down(self) -> None:
        if self.phase == "serving":
            notify("STOPPING=1")
            if self._successor is not None:
                self._successor.kill()  # who stops the service wants none, not the next one
        self.phase = "stopped"
        for sock in (self._cri_socket, self._control_socket):
            sock.withdraw()
        await self._cri.stop(self.settings.service.stop_grace_s)
        await self._control.stop(0)
        for task in list(self._background):
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self.sleeping.close()
        if self.moves is not None:
            await self.moves.close()
        await asyncio.to_thread(self.metrics.close)
        if self._predecessor:
            await self._predecessor.close()
        await self.channel.close()


def _policy(settings: Settings) -> Policy:
    said = settings.policy
    return Policy(said.managed, said.unmanaged_namespaces)


def _plain_tcp(sandbox_id: str) -> bool:
    netns = pods.network_of(sandbox_id)
    return netns is not None and mptcp.switch_off(netns)
