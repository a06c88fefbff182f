# SPDX-License-Identifier: Apache-2.0
"""Owns the Docker engine: finds one that answers, or installs and starts one, and stops that one."""

from __future__ import annotations

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

# testcontainers reads these when it is imported. Its reaper is an image from a registry, which a
# testbed must not depend on; tests/testbed/run.py does its work.
os.environ["TESTCONTAINERS_RYUK_DISABLED"] = "true"

import docker
from docker.errors import DockerException

from tests.testbed.errors import EngineMissing

STATE_DIR = Path(os.environ.get("PODFERRY_TESTBED_STATE", "/var/lib/podferry-testbed"))
ENGINE_DIR = STATE_DIR / "engine"
PID_FILE = ENGINE_DIR / "dockerd.pid"
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


def ensure() -> docker.DockerClient:
    """A client of a running engine; installs and starts one where none answers.

    Raises:
        EngineMissing: none answers and none can be started; says why.
    """
    client = connect()
    if client is None:
        with locked("engine"):
            client = connect() or _bring_up()
    return client


def stop() -> bool:
    """Stops the engine that ``ensure`` started, and only that one; True if there was one."""
    with locked("engine"):
        pid = _own_pid()
        if pid is None:
            return False
        say(f"stopping dockerd (pid {pid})")
        os.kill(pid, signal.SIGTERM)
        if not _gone(pid, STOP_DEADLINE_S):
            os.kill(pid, signal.SIGKILL)
            _gone(pid, STOP_DEADLINE_S)
        PID_FILE.unlink(missing_ok=True)
        if (ENGINE_DIR / "made-docker0").exists():
            subprocess.run(["ip", "link", "delete", "docker0"], check=False, capture_output=True)
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
    if not Path("/sys/class/net/docker0").exists():
        (ENGINE_DIR / "made-docker0").touch()
    say(f"starting dockerd by hand (data and log in {ENGINE_DIR})")
    with LOG_FILE.open("ab") as log:
        process = subprocess.Popen(
            [
                "dockerd",
                f"--data-root={ENGINE_DIR / 'data'}",
                f"--exec-root={ENGINE_DIR / 'exec'}",
                f"--pidfile={PID_FILE}",
            ],
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
