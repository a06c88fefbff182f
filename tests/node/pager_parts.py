# SPDX-License-Identifier: Apache-2.0
"""Dumps a process on a node, and restores it lazily with podferry-pager; plays the monitor.

The monitor's part here is what the real one does: it holds a duplicate of every userfaultfd that
the pager announces, and starts another pager when one dies.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import struct
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.testbed.node import Node

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "pager"
BUILD_DEADLINE_S = 600
STEP_DEADLINE_S = 60.0
POLL_S = 0.01

MESSAGE = struct.Struct("=IHHIiQQ")
MAGIC = 0x47504650
LISTENING, CONNECTION, USERFAULTFD, RESTORED, OVER, ALL_IN = range(1, 7)
FIGURE = re.compile(r"(\w+)=(\d+)")


def build() -> Path:
    """The directory with podferry-pager, tests/pager_workload and tests/uffd_copy, up to date."""
    for command in (
        ["cmake", "-S", str(ROOT), "-B", str(BUILD)],
        ["cmake", "--build", str(BUILD), "--target", "pager_node_parts"],
    ):
        subprocess.run(command, check=True, capture_output=True, timeout=BUILD_DEADLINE_S)
    return BUILD / "native" / "pager"


def _children(pid: int) -> list[int]:
    """What a command that enters the node has started there, as the host counts."""
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@dataclass
class Pager:
    """One pager process, seen by its monitor."""

    process: subprocess.Popen[bytes]
    log: str = ""

    def pid(self) -> int:
        """The pager itself, as the host counts; what was started enters the node first."""
        return _children(self.process.pid)[0]

    def wait(self) -> int:
        """Its exit status, negative for a signal; keeps what it said."""
        _, said = self.process.communicate(timeout=STEP_DEADLINE_S)
        self.log = said.decode("utf-8", "replace")
        return self.process.returncode

    def figures(self) -> dict[str, int]:
        """What it said of itself at its end."""
        return {name: int(value) for name, value in FIGURE.findall(self.log)}


@dataclass
class Monitor:
    """What the pager told, and what it passed on to be kept."""

    ours: socket.socket
    theirs: socket.socket
    uffds: dict[int, int] = field(default_factory=dict)
    connection: int = -1
    told: set[int] = field(default_factory=set)

    @classmethod
    def make(cls) -> Monitor:
        """A fresh one."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(STEP_DEADLINE_S)
        return cls(ours, theirs)

    def take(self) -> None:
        """Takes one message."""
        data, fds, _, _ = socket.recv_fds(self.ours, MESSAGE.size, 1)
        magic, version, kind, space, _, _, _ = MESSAGE.unpack(data)
        assert (magic, version) == (MAGIC, 1)
        self.told.add(kind)
        if kind == CONNECTION:
            self.connection = fds[0]
        elif kind == USERFAULTFD:
            self.uffds[space] = fds[0]
        elif kind == OVER:
            os.close(self.uffds.pop(space))

    def take_until(self, kind: int) -> None:
        """Takes messages up to one of this kind."""
        while kind not in self.told:
            self.take()

    def take_all(self) -> None:
        """Takes what has arrived."""
        self.ours.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                self.take()
        self.ours.settimeout(STEP_DEADLINE_S)

    def close(self) -> None:
        """Gives up everything it holds."""
        for fd in [*self.uffds.values(), *([self.connection] if self.connection >= 0 else [])]:
            os.close(fd)
        self.uffds.clear()
        self.ours.close()
        self.theirs.close()


class Sleeper:
    """A workload on a node that is put to sleep and woken; a context manager that removes it.

    Args:
        node: where.
        mebibytes: of its block; it has 96 MiB more.
        name: its directory.
        processes: how many such processes; their parent is a shell.
        dense: leaves out the pages that are never written; they cut the rest into short runs.
    """

    def __init__(
        self,
        node: Node,
        mebibytes: int,
        name: str = "pager",
        processes: int = 1,
        dense: bool = False,
    ) -> None:
        self.node = node
        self.directory = f"/run/{name}"
        self.images = f"{self.directory}/images"
        self.pid = 0
        self.monitor = Monitor.make()
        self.pagers: list[Pager] = []
        self.restoring: subprocess.Popen[bytes] | None = None
        self._mebibytes = mebibytes
        self._dense = dense
        self._results = [f"{self.directory}/result-{index}" for index in range(processes)]
        self._go = f"{self.directory}/go"

    # ---- life

    def __enter__(self) -> Self:
        parts = build()
        for part in (parts / "podferry-pager", *(parts / "tests" / "pager_workload",)):
            self.node.write(f"{self.directory}/{part.name}", part.read_bytes(), 0o755)
        self.node.write(f"{self.images}/.keep", "", 0o600)
        try:
            self._start()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._remove()

    def _start(self) -> None:
        workload = f"{self.directory}/pager_workload {self._mebibytes} {self._go}"
        dense = " dense" if self._dense else ""
        each = " & ".join(f"{workload} {result}{dense}" for result in self._results)
        # One process is the session's leader itself; several are a shell's children.
        command = f"exec {each}" if len(self._results) == 1 else f"{each} & wait"
        started = self.node.exec(
            ["sh", "-c", 'setsid sh -c "$0" </dev/null >/dev/null 2>&1 10>&- & echo $!', command]
        )
        self.pid = int(started.text)
        for said in self._wait_results():
            assert said == "ready"

    def _remove(self) -> None:
        if self.restoring is not None and self.restoring.poll() is None:
            # A CRIU whose pager has ended waits for ever: see docs/pager.md.
            for child in _children(self.restoring.pid):
                os.kill(child, signal.SIGKILL)
            self.restoring.wait(STEP_DEADLINE_S)
        # The whole session, by its leader's number; nothing of it may be left.
        self.node.exec(["sh", "-c", f"pkill -KILL -s {self.pid}"], check=False)
        for pager in self.pagers:
            if pager.process.poll() is None:
                with contextlib.suppress(ProcessLookupError, IndexError, FileNotFoundError):
                    os.kill(pager.pid(), signal.SIGKILL)
                pager.wait()
        self.monitor.close()
        self.node.exec(["rm", "-rf", self.directory])

    # ---- sleep and wake

    def dump(self) -> None:
        """Puts it to sleep."""
        self.node.exec(["criu", "dump", "-t", str(self.pid), *self._criu("dump")])

    def forget_round(self) -> None:
        """Makes ready for another sleep."""
        self.node.exec(["rm", "-rf", self.images])
        self.node.write(f"{self.images}/.keep", "", 0o600)
        self.monitor.close()
        self.monitor = Monitor.make()

    def pager_source(self) -> list[str]:
        """Where the pager finds the memory."""
        return ["--images", self.directory, "--set", "images"]

    def start_pager(self, *, resume: bool = False) -> Pager:
        """Starts a pager; unless it resumes, it listens when this returns."""
        monitor = self.monitor
        argv = [f"{self.directory}/podferry-pager", *self.pager_source()]
        argv += [
            "--journal",
            f"{self.images}/journal",
            "--monitor-fd",
            str(monitor.theirs.fileno()),
        ]
        passed = [monitor.theirs.fileno()]
        if resume:
            argv += ["--resume", "--connection-fd", str(monitor.connection)]
            passed.append(monitor.connection)
            for space, fd in monitor.uffds.items():
                argv += ["--uffd-fd", f"{space}:{fd}"]
                passed.append(fd)
        process = subprocess.Popen(
            self.node.inside.argv(argv), pass_fds=passed, stderr=subprocess.PIPE
        )
        pager = Pager(process)
        self.pagers.append(pager)
        if not resume:
            monitor.take_until(LISTENING)
        return pager

    def restore(self) -> None:
        """Wakes it, lazily."""
        status = self.start_restore().wait(STEP_DEADLINE_S)
        assert status == 0, self.criu_log("restore")

    def start_restore(self) -> subprocess.Popen[bytes]:
        """Begins to wake it."""
        argv = ["criu", "restore", "--lazy-pages", "--restore-detached", *self._criu("restore")]
        self.restoring = subprocess.Popen(self.node.inside.argv(argv))
        return self.restoring

    def finish(self, pager: Pager) -> int:
        """Waits for the pager's end and closes the duplicates it no longer needs; its status.

        A duplicate that stays open stops the process at the next page it has never touched.
        """
        status = pager.wait()
        self.monitor.take_all()
        return status

    def kill(self, pager: Pager) -> bool:
        """kill -9; False if the pager had ended before."""
        with contextlib.suppress(ProcessLookupError, IndexError, FileNotFoundError):
            os.kill(pager.pid(), signal.SIGKILL)
        return self.finish(pager) != 0

    def go(self) -> None:
        """Lets the workload change and check its memory, from when it runs next."""
        for result in self._results:
            self.node.path(result).unlink(missing_ok=True)
        self.node.write(self._go, "")

    def results(self) -> list[str]:
        """What the workloads said of their memory."""
        said = self._wait_results()
        self.node.path(self._go).unlink()
        return said

    def criu_log(self, name: str) -> str:
        """The end of CRIU's log."""
        return self.node.read(f"{self.images}/{name}.log").decode("utf-8", "replace")[-3000:]

    def _wait_results(self) -> list[str]:
        paths = [self.node.path(result) for result in self._results]
        deadline = time.monotonic() + STEP_DEADLINE_S
        while not all(path.exists() for path in paths):
            assert time.monotonic() < deadline, "the workload says nothing"
            time.sleep(POLL_S)
        return [path.read_text() for path in paths]

    def _criu(self, step: str) -> list[str]:
        log = ["-o", f"{step}.log", "-v4"]
        return ["-D", self.images, *log, "--network-lock", "skip"]
