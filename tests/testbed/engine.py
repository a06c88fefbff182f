# SPDX-License-Identifier: Apache-2.0
"""Owns the Docker engine: finds one that answers, or starts one, and stops that one."""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

# testcontainers reads these when it is imported. Its reaper is an image from a registry, which a
# testbed must not depend on; tests/testbed/run.py does its work.
os.environ["TESTCONTAINERS_RYUK_DISABLED"] = "true"

import docker
from docker.errors import DockerException

from tests.testbed.errors import EngineMissing

STATE_DIR = Path(os.environ.get("PODFERRY_TESTBED_STATE", "/var/lib/podferry-testbed"))
ENGINE_DIR = STATE_DIR / "engine"
PID_FILE = ENGINE_DIR / "dockerd.pid"
KEEP_FILE = ENGINE_DIR / "keep"
LOG_FILE = ENGINE_DIR / "dockerd.log"
START_DEADLINE_S = 60.0
STOP_DEADLINE_S = 30.0


def say(text: str) -> None:
    """Tells the user what the testbed is doing; it changes machines and takes minutes."""
    print(f"testbed: {text}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """Holds the testbed's lock of that name against other processes."""
    STATE_DIR.mkdir(parents=True, exist_ok=True)
    with (STATE_DIR / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class _Users:
    """Counts the processes that use the engine: each holds a shared lock while it does."""

    def __init__(self) -> None:
        self._lock: TextIO | None = None

    @property
    def joined(self) -> bool:
        """Whether this process is a user."""
        return self._lock is not None

    def join(self) -> None:
        """Becomes a user; waits while the engine is being stopped."""
        if self._lock is None and os.access(STATE_DIR.parent, os.W_OK):
            self._lock = self._open()
            atexit.register(release)
            fcntl.flock(self._lock, fcntl.LOCK_SH)

    def leave(self) -> bool:
        """Is a user no longer; whether it was one."""
        if self._lock is None:
            return False
        self._lock.close()
        self._lock = None
        return True

    @contextlib.contextmanager
    def alone(self) -> Iterator[bool]:
        """Keeps others from joining meanwhile, if nobody uses the engine; tells whether so."""
        with self._open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True

    @staticmethod
    def _open() -> TextIO:
        STATE_DIR.mkdir(parents=True, exist_ok=True)
        return (STATE_DIR / "users.lock").open("w")


_users = _Users()


def connect() -> docker.DockerClient | None:
    """A client of the engine that DOCKER_HOST names or that listens at the usual place, if any."""
    try:
        client = docker.from_env(timeout=600)
    except DockerException:
        return None
    try:
        client.ping()
    except (DockerException, OSError):
        client.close()
        return None
    return client


def ensure(*, keep: bool = False) -> docker.DockerClient:
    """A client of a running engine; installs and starts one where none answers.

    Args:
        keep: whether ``release`` leaves it running; otherwise its last user stops it.

    Raises:
        EngineMissing: none answers and none can be started; says why.
    """
    _users.join()
    client = connect()
    if client is None:
        with locked("engine"):
            client = connect() or _bring_up()
    if keep and ENGINE_DIR.exists():
        KEEP_FILE.touch()
    return client


def in_use() -> bool:
    """Whether this process has asked for the engine."""
    return _users.joined


def release() -> None:
    """Ends this process's use of the engine; the last user of one that we started stops it."""
    if _users.leave() and not KEEP_FILE.exists():
        with contextlib.suppress(EngineMissing):
            stop()


def stop() -> bool:
    """Stops the engine that ``ensure`` started, and only that one; True if there was one.

    Raises:
        EngineMissing: another process uses it.
    """
    with _users.alone() as nobody_else, locked("engine"):
        pid = _own_pid()
        if pid is not None and not nobody_else:
            raise EngineMissing("another process uses the engine", remedy="wait for its end")
        if pid is None:
            return False
        say(f"stopping dockerd (pid {pid})")
        os.kill(pid, signal.SIGTERM)
        if not _gone(pid, STOP_DEADLINE_S):
            os.kill(pid, signal.SIGKILL)
            _gone(pid, STOP_DEADLINE_S)
        PID_FILE.unlink(missing_ok=True)
        KEEP_FILE.unlink(missing_ok=True)
        return True


def _bring_up() -> docker.DockerClient:
    if os.geteuid() != 0:
        raise EngineMissing(
            "no Docker engine answers", remedy="start one, or run as root so that one is started"
        )
    if "DOCKER_HOST" in os.environ:
        raise EngineMissing(f"no Docker engine answers at DOCKER_HOST={os.environ['DOCKER_HOST']}")
    if shutil.which("dockerd") is None:
        install("docker.io", "iptables")
        client = connect()  # where systemd runs, the package has started its service
        if client is not None:
            return client
    return _start()


def install(*packages: str) -> None:
    """Installs Debian or Ubuntu packages on this machine.

    Raises:
        EngineMissing: there is no apt here, or it failed.
    """
    if shutil.which("apt-get") is None:
        raise EngineMissing(
            f"{packages[0]} is not installed and this machine has no apt-get",
            remedy=f"install {' '.join(packages)} by hand",
        )
    say(f"installing {' '.join(packages)} with apt-get")
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for argv in (
        ["apt-get", "update", "-q"],
        ["apt-get", "install", "-q", "-y", "--no-install-recommends", *packages],
    ):
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0 and argv[1] == "install":
            raise EngineMissing(f"{' '.join(argv)} failed: {(done.stdout + done.stderr)[-2000:]}")


def _start() -> docker.DockerClient:
    ENGINE_DIR.mkdir(parents=True, exist_ok=True)
    KEEP_FILE.unlink(missing_ok=True)
    say(f"starting dockerd by hand (data and log in {ENGINE_DIR})")
    # In a network namespace of its own: its bridges and packet filters then never touch the
    # machine's and go with it. Nodes need no way out.
    options = (
        f"--data-root={ENGINE_DIR / 'data'} --exec-root={ENGINE_DIR / 'exec'} --pidfile={PID_FILE}"
    )
    script = f"ip link set lo up && exec dockerd {options}"
    with LOG_FILE.open("ab") as log:
        process = subprocess.Popen(
            ["unshare", "--net", "/bin/sh", "-c", script],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    deadline = time.monotonic() + START_DEADLINE_S
    while time.monotonic() < deadline:
        client = connect()
        if client is not None:
            return client
        if process.poll() is not None:
            break
        time.sleep(0.1)
    tail = LOG_FILE.read_text("utf-8", "replace")[-2000:]
    process.kill()
    process.wait()
    PID_FILE.unlink(missing_ok=True)
    raise EngineMissing(f"dockerd does not come up: {tail}", where=str(LOG_FILE))


def _own_pid() -> int | None:
    try:
        pid = int(PID_FILE.read_text())
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError):
        return None
    # The file may have outlived its process, and the number found a new owner.
    return pid if str(ENGINE_DIR).encode() in command else None


def _gone(pid: int, deadline_s: float) -> bool:
    deadline = time.monotonic() + deadline_s
    while time.monotonic() < deadline:
        try:
            if os.waitpid(pid, os.WNOHANG)[0] == pid:
                return True
        except ChildProcessError:
            if not Path(f"/proc/{pid}").exists():
                return True
        time.sleep(0.1)
    return False
