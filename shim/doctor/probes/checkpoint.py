# SPDX-License-Identifier: Apache-2.0
"""Asks criu and runc for themselves, and freezes a child in a cgroup of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from shim.doctor.facts import Cgroups, Command, CriuFeatures, Freezer
from shim.doctor.probes.system import mounts
from shim.settings import Settings

SEARCH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
OUTPUT_CHARS = 2000
FREEZE_TIMEOUT_S = 2.0


def find_command(name: str) -> str:
    """The path of a command, "" if there is none; sbin directories count for everybody."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:{SEARCH}") or ""


def run(name: str, *arguments: str) -> Command:
    """Runs a command to its end; the probe's own deadline is what bounds it."""
    path = find_command(name)
    if not path:
        return Command("")
    done = subprocess.run(
        [path, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    return Command(path, done.returncode, done.stdout[-OUTPUT_CHARS:].strip())


def command(name: str, *arguments: str) -> Callable[[Settings], Command]:
    """A probe that runs one command."""
    return lambda settings: run(name, *arguments)


def criu_features(names: Sequence[str]) -> Callable[[Settings], CriuFeatures]:
    """A probe that asks criu for each feature."""

    def probe(settings: Settings) -> CriuFeatures:
        path = find_command("criu")
        if not path:
            return CriuFeatures("", {})
        return CriuFeatures(path, {name: run("criu", "check", "--feature", name) for name in names})

    return probe


def cgroups(settings: Settings) -> Cgroups:
    """The cgroup file systems mounted here."""
    return Cgroups(tuple(one for one in mounts() if one.kind in ("cgroup", "cgroup2")))


def freezer(settings: Settings) -> Freezer:
    """Freezes and thaws a sleeping child in a new cgroup of the v2 tree."""
    tree = next((one.path for one in mounts() if one.kind == "cgroup2"), "")
    if not tree:
        return Freezer(False, problem="no cgroup2 file system is mounted")
    try:
        with _cgroup(_own_cgroup(Path(tree))) as group, _sleeper() as pid:
            (group / "cgroup.procs").write_text(str(pid), "ascii")
            (group / "cgroup.freeze").write_text("1", "ascii")
            froze = _wait_for(group, "frozen 1")
            (group / "cgroup.freeze").write_text("0", "ascii")
            return Freezer(True, froze, _wait_for(group, "frozen 0"))
    except OSError as error:
        return Freezer(False, problem=f"{error.strerror}: {error.filename}")


def _own_cgroup(tree: Path) -> Path:
    for line in Path("/proc/self/cgroup").read_text("utf-8").splitlines():
        if line.startswith("0::"):
            own = line[3:].lstrip("/")
            # ".." stands for a cgroup above our namespace's root, which is not in this mount.
            if ".." not in own.split("/") and (tree / own).is_dir():
                return tree / own
    return tree


@contextlib.contextmanager
def _cgroup(parent: Path) -> Iterator[Path]:
    group = parent / f"podferry-doctor-{os.getpid()}"
    group.mkdir()
    try:
        yield group
    finally:
        # The child was reaped, but its cgroup stays busy for a moment.
        ends_at = time.monotonic() + FREEZE_TIMEOUT_S
        while True:
            try:
                group.rmdir()
                break
            except OSError:
                if time.monotonic() >= ends_at:
                    raise


@contextlib.contextmanager
def _sleeper() -> Iterator[int]:
    pid = os.fork()
    if pid == 0:
        try:
            while True:
                signal.pause()
        finally:
            os._exit(0)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)  # ends a frozen one of the v2 freezer too
        os.waitpid(pid, 0)


def _wait_for(group: Path, line: str) -> bool:
    # Read in a spin: notifications come every 10 ms at most, a freeze takes less than one.
    ends_at = time.monotonic() + FREEZE_TIMEOUT_S
    while time.monotonic() < ends_at:
        if line in (group / "cgroup.events").read_text("ascii").splitlines():
            return True
    return False
