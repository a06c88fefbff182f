# SPDX-License-Identifier: Apache-2.0
"""A workload on a node whose memory goes into a page store in rounds and comes back from it.

Sender and receiver run here, over loopback; CRIU, pager and workload on the node. Plays the part of
the orchestrator on both sides.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from shim.memory.store import PageStore, Sealed
from shim.memory.stream import Receiver, Sender, make_token, pack_runs
from tests.memory.fix_stream import PAGE, Authority
from tests.node.pager_parts import POLL_S, STEP_DEADLINE_S, Sleeper
from tests.testbed.node import Node

IMAGES = "dump"
STORE = "store"
LOOPBACK = "127.0.0.1"
QUOTA_BYTES = 2 << 30
PRESENT_OR_SWAPPED = 3 << 62
CLONE_NEWNET = 0x40000000


def host_pid(node: Node, pid: int) -> int:
    """A node's process as the host counts.

    Raises:
        LookupError: there is none.
    """
    space = Path(f"/proc/{node.inside.pid}/ns/pid").readlink()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            if (entry / "ns" / "pid").readlink() != space:
                continue
            for line in (entry / "status").read_text().splitlines():
                if line.startswith("NSpid:") and int(line.split()[-1]) == pid:
                    return int(entry.name)
    raise LookupError(f"no process {pid} on {node.name}")


def present_runs(pid: int) -> Iterator[tuple[int, int]]:
    """The pages of a process's private anonymous memory, as addresses and numbers of pages."""
    with Path(f"/proc/{pid}/pagemap").open("rb") as pagemap:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            area, rights, _, _, inode, *name = line.split(maxsplit=5)
            if rights[3] != "p" or inode != "0" or (name and name[0].startswith("[v")):
                continue
            start, end = (int(part, 16) for part in area.split("-"))
            pagemap.seek(start // PAGE * 8)
            raw = pagemap.read((end - start) // PAGE * 8)
            first = -1
            for at, (word,) in enumerate(struct.iter_unpack("<Q", raw)):
                if word & PRESENT_OR_SWAPPED and first < 0:
                    first = at
                elif not word & PRESENT_OR_SWAPPED and first >= 0:
                    yield start + first * PAGE, at - first
                    first = -1
            if first >= 0:
                yield start + first * PAGE, len(raw) // 8 - first


def free_port() -> int:
    """One that nobody listens at."""
    with socket.create_server((LOOPBACK, 0)) as server:
        return int(server.getsockname()[1])


def listen_inside(node: Node) -> socket.socket:
    """A socket that listens at the loopback of a node's network."""
    made: list[socket.socket] = []

    def make() -> None:
        with Path(f"/proc/{node.inside.pid}/ns/net").open() as space:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.setns(space.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
        made.append(socket.create_server((LOOPBACK, 0)))

    # A thread has a network of its own if it wants, and takes it along when it ends.
    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    made[0].settimeout(STEP_DEADLINE_S)
    return made[0]


class Mover(Sleeper):
    """A workload that goes through a store; a context manager that removes everything."""

    def __init__(self, node: Node, mebibytes: int, certificates: Path, name: str = "mover") -> None:
        super().__init__(node, mebibytes, name)
        self.images = f"{self.directory}/{IMAGES}"
        self._certificates = certificates
        self._receiver = Receiver()
        self._token = make_token()
        self._dumping: subprocess.Popen[bytes] | None = None
        self.store: PageStore
        self.sender: Sender

    def __enter__(self) -> Self:
        super().__enter__()
        try:
            authority = Authority(self._certificates, "authority")
            port = self._receiver.start(LOOPBACK, 0, authority.issue("target"))
            directory = self.node.path(f"{self.directory}/{STORE}")
            self.store = self._receiver.expect(
                self._token, directory, QUOTA_BYTES, peer_name="source"
            )
            self.sender = Sender.connect(
                LOOPBACK, port, authority.issue("source"), self._token, peer_name="target"
            )
        except BaseException:
            self._receiver.close()
            self._remove()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.sender.close()
        self._receiver.close()
        if self._dumping is not None and self._dumping.poll() is None:
            self.end_source()
        super().__exit__(kind, error, traceback)

    def round(self) -> None:
        """Everything that is there now; what T has already is left out by the sender."""
        pid = host_pid(self.node, self.pid)
        self.sender.send_runs(pid, self.pid, pack_runs(present_runs(pid)))
        self.sender.flush()

    def dump_lazily(self) -> None:
        """Has CRIU dump all but the memory; the workload stands still afterwards."""
        status, said = os.pipe()
        argv = ["criu", "dump", "-t", str(self.pid), *self._criu("dump"), "--lazy-pages"]
        argv += ["--address", LOOPBACK, "--port", str(free_port()), "--status-fd", str(said)]
        self._dumping = subprocess.Popen(self.node.inside.argv(argv), pass_fds=[said])
        os.close(said)
        with os.fdopen(status, "rb") as ready:
            assert ready.read(1) == b"\0", self.criu_log("dump")

    def dump_through_page_server(self) -> int:
        """Has CRIU dump everything, its pages into our end of the page-server protocol.

        The image's other files are sent too. Gives the bytes that came through the protocol.
        """
        with listen_inside(self.node) as server:
            port = str(server.getsockname()[1])
            argv = ["criu", "dump", "-t", str(self.pid), *self._criu("dump")]
            argv += ["--page-server", "--address", LOOPBACK, "--port", port]
            self._dumping = subprocess.Popen(self.node.inside.argv(argv))
            connection, _ = server.accept()
        with connection:
            image_bytes = self.sender.serve_page_server(connection.fileno())
        assert self._dumping.wait(STEP_DEADLINE_S) == 0, self.criu_log("dump")
        self.sender.send_directory(self.node.path(self.images))
        self.sender.flush()
        self.images = f"{self.directory}/{STORE}/images"
        return image_bytes

    def restore_eagerly(self) -> None:
        """Has CRIU restore from the images that T has, without a pager."""
        argv = ["criu", "restore", "--restore-detached", *self._criu("restore")]
        self.restoring = subprocess.Popen(self.node.inside.argv(argv))
        assert self.restoring.wait(STEP_DEADLINE_S) == 0, self.criu_log("restore")

    def deliver(self) -> Sealed:
        """The last round, the image's files, and the seal: from now on T has all it needs."""
        self.round()
        self.sender.send_directory(self.node.path(self.images))
        self.sender.flush()
        return self.store.seal()

    def end_source(self) -> None:
        """S's part is over: nothing of it is left to ask."""
        assert self._dumping is not None
        pid = host_pid(self.node, self.pid)
        self.node.exec(["sh", "-c", f"pkill -KILL -s {self.pid}"], check=False)
        for child in self._children_of(self._dumping.pid):
            os.kill(child, signal.SIGKILL)
        self._dumping.wait(STEP_DEADLINE_S)
        deadline = time.monotonic() + STEP_DEADLINE_S
        while Path(f"/proc/{pid}").exists():
            assert time.monotonic() < deadline, "the source lives on"
            time.sleep(POLL_S)
        self.node.exec(["rm", "-rf", self.images])
        self.images = f"{self.directory}/{STORE}/images"

    def pager_source(self) -> list[str]:
        work_dir = f"{self.directory}/{STORE}/images"
        return ["--store", f"{self.directory}/{STORE}", "--work-dir", work_dir]

    @staticmethod
    def _children_of(pid: int) -> list[int]:
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
