# SPDX-License-Identifier: Apache-2.0
"""The real service as a process of its own: started, waited for, ended by pid, its log kept."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import grpc
import psutil

from cri_proto import control_pb2 as pb
from cri_proto import control_pb2_grpc
from tests.contract.client import until

ROOT = Path(__file__).parents[2]
PR_SET_CHILD_SUBREAPER = 36
LOG_TAIL_BYTES = 5_000
LIVE: set[ShimProcess] = set()
"""For the log in the report of a failed test."""


def adopt_orphans(adopt: bool) -> None:
    """Makes successors, whose parent ends, children of the test process, to be reaped here.

    For these tests only: a node's processes that came here and were never reaped would keep the
    node's container from ending.
    """
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, int(adopt), 0, 0, 0)


def accepts(path: Path) -> bool:
    """Whether anybody listens at a unix socket's path."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(1.0)
        try:
            client.connect(str(path))
        except OSError:
            return False
    return True


class ShimProcess:
    """One node's service, successors included.

    Args:
        home: an empty directory with a short path.
        runtime: the backend's socket.
        module: what to run; the command line by default.
        connection_age_s: see the settings.
        stop_grace_s: see the settings.
    """

    def __init__(
        self,
        home: Path,
        runtime: Path,
        *,
        module: str = "shim.cli.main",
        connection_age_s: float = 1.0,
        stop_grace_s: float = 1.0,
        linger_calls_s: float = 60.0,
    ) -> None:
        self.home = home
        self.socket = home / "podferry.sock"
        self.run_dir = home / "run"
        self.config = home / "config.toml"
        self.log_path = home / "log"
        self.popen: subprocess.Popen[bytes] | None = None
        self._module = module
        self._seen: set[int] = set()
        self.config.write_text(
            f"""
[cri]
listen = "{self.socket}"
runtime = "{runtime}"
connection_age_s = {connection_age_s}
[service]
run_dir = "{self.run_dir}"
state_dir = "{home}/state"
stop_grace_s = {stop_grace_s}
linger_calls_s = {linger_calls_s}
[metrics]
listen = ""
[log]
level = "debug"
"""
        )

    @property
    def control(self) -> Path:
        """The control socket."""
        return self.run_dir / "control.sock"

    @property
    def pid(self) -> int:
        """The process that was started first."""
        assert self.popen
        return self.popen.pid

    @property
    def log(self) -> str:
        """What all its processes have logged."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def spawn(self, *arguments: str, stderr: int | None = None) -> subprocess.Popen[bytes]:
        """Starts a process of the service without waiting for it.

        Args:
            arguments: behind ``serve``.
            stderr: a descriptor to write to in place of the log.
        """
        with self.log_path.open("ab") as log:
            output = log.fileno() if stderr is None else stderr
            self.popen = subprocess.Popen(
                [sys.executable, "-m", self._module, "--config", str(self.config), "serve",
                 *arguments],
                cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            )  # fmt: skip
        LIVE.add(self)
        return self.popen

    async def start(self) -> ShimProcess:
        """Starts the service and waits until both sockets answer."""
        popen = self.spawn()
        await until(
            lambda: popen.poll() is not None or (accepts(self.socket) and accepts(self.control)),
            what=f"the service serves {self.socket}",
        )
        assert popen.poll() is None, f"the service ended with {popen.returncode}"
        return self

    @contextlib.asynccontextmanager
    async def stub(self):  # type: ignore[no-untyped-def]
        """A client of the control socket."""
        async with grpc.aio.insecure_channel(f"unix:{self.control}") as channel:
            yield control_pb2_grpc.ControlStub(channel)

    async def serving(self) -> int:
        """Waits until the process that answers on the control socket serves; its pid."""
        for _ in range(500):
            async with self.stub() as control:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    status = await control.Status(pb.StatusRequest(), timeout=5)
                    if status.phase == "serving":
                        return int(status.pid)
            await asyncio.sleep(0.02)
        raise AssertionError("nobody serves")

    async def idle(self) -> None:
        """Waits until no call is under way in the serving process; fails if one never ends."""
        async with self.stub() as control:
            for _ in range(500):
                status = await control.Status(pb.StatusRequest(), timeout=5)
                if not status.calls_in_flight:
                    return
                await asyncio.sleep(0.02)
        raise AssertionError(f"{status.calls_in_flight} calls never end in the service")

    async def handover(self, at_most_s: float = 20.0) -> int:
        """Has the serving process replaced; the pid of the new one, which serves."""
        await self.serving()
        async with self.stub() as control:
            answer = await control.StartSuccessor(pb.StartSuccessorRequest(at_most_s=at_most_s))
        assert await self.serving() == answer.successor_pid
        return int(answer.successor_pid)

    def processes(self) -> list[psutil.Process]:
        """All its living processes, found by their settings file; the dead ones are reaped."""
        found = []
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if child.status() == psutil.STATUS_ZOMBIE:
                    self._reap(child.pid)
                elif str(self.config) in child.cmdline():
                    self._seen.add(child.pid)
                    found.append(child)
        return found

    def is_alive(self, pid: int) -> bool:
        """Whether one of its processes still runs."""
        return any(process.pid == pid for process in self.processes())

    def _reap(self, pid: int) -> None:
        if self.popen and pid == self.popen.pid:
            self.popen.poll()
        elif pid in self._seen:
            with contextlib.suppress(ChildProcessError):  # its parent still lives
                os.waitpid(pid, os.WNOHANG)

    def kill(self) -> None:
        """kill -9 of every process."""
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()
        if self.popen:
            self.popen.wait(10)

    def stop(self) -> None:
        """SIGTERM to every process, SIGKILL to what does not end in time; none is left."""
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.send_signal(signal.SIGTERM)
        give_up_s = time.monotonic() + 10
        while (left := self.processes()) and time.monotonic() < give_up_s:
            time.sleep(0.01)
        self.kill()
        LIVE.discard(self)
        assert not left, f"did not end at SIGTERM: {left}"

    def traces(self) -> list[Path]:
        """Sockets that it left behind."""
        return [path for path in self.home.rglob("*") if path.is_socket()]

    def tail(self) -> str:
        """The end of its log."""
        return self.log[-LOG_TAIL_BYTES:]
