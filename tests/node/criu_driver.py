# SPDX-License-Identifier: Apache-2.0
"""Puts a container to sleep and wakes it without a monitor; runs on the node, by podferry's Python.

    criu_driver.py CONTAINER ROUNDS [ASLEEP_FILE]

containerd's shim is stopped meanwhile, or it would see its container end. Composed by the engine,
sent to `criu swrk` as the monitor does. Prints one JSON object per round. With ASLEEP_FILE it waits
while asleep until that file, which it makes, is gone.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import shutil
import signal
import socket
import sys
import time
from pathlib import Path

from shim.checkpoint import anatomy, cores, mount_clone, request, stats, system_v
from shim.core import launch
from shim.core.launch import Anatomy, Launch, Purpose, Sleeper

HIGH_FD = 200
ASLEEP_DEADLINE_S = 60.0


def ask_criu(what: Launch, enter: list[int], stdio: dict[int, int]) -> tuple[request.Answer, float]:
    """Starts CRIU as a child, as the monitor does; returns its answer and the milliseconds."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    libc = mount_clone._libc
    started = time.monotonic()
    pid = os.fork()
    if pid == 0:
        try:
            for namespace in enter:
                if libc.setns(namespace, 0):
                    os._exit(120)
            high = {3: fcntl.fcntl(theirs.fileno(), fcntl.F_DUPFD, HIGH_FD)}
            for number, fd in stdio.items():
                high[launch.FIRST_STDIO_FD + number] = fcntl.fcntl(fd, fcntl.F_DUPFD, HIGH_FD)
            os.closerange(3, HIGH_FD)
            for number, fd in high.items():
                os.dup2(fd, number)
            os.closerange(HIGH_FD, 4096)
            os.execv("/usr/sbin/criu", ["criu", "swrk", "3"])
        finally:
            os._exit(121)
    theirs.close()
    try:
        ours.send(request.encode(what))
        while (answer := request.decode(ours.recv(65536))) is None:
            ours.send(request.notify_answer())
    finally:
        ours.close()
        os.waitpid(pid, 0)
    return answer, (time.monotonic() - started) * 1000


def gone(path: Path) -> None:
    """Waits until a file is gone.

    Raises:
        TimeoutError: it is still there.
    """
    until = time.monotonic() + ASLEEP_DEADLINE_S
    while path.exists():
        if time.monotonic() > until:
            raise TimeoutError(str(path))
        time.sleep(0.02)


def sleep_and_wake(
    seen: Anatomy, images: Path, clone: Path, asleep: Path | None
) -> tuple[int, dict[str, object]]:
    """One round; returns the new init's pid and the figures."""
    holder = os.getpid()
    mount_clone.create(seen.init_pid, holder, clone)
    down = launch.dump(seen, str(images), Purpose.SLEEP)
    enter = [os.open(path, os.O_RDONLY) for path in down.enter]
    pipes = {
        one.number: os.open(one.opened_at, os.O_WRONLY if one.number else os.O_RDONLY)
        for one in seen.stdio
    }
    sleeper = Sleeper.of(seen)
    try:
        shutil.rmtree(images, ignore_errors=True)
        images.mkdir(mode=0o700, parents=True)
        answer, down_ms = ask_criu(down, enter, {})
        if not answer.success:
            log = (images / "dump.log").read_text()
            return 0, {"dump": dataclasses.asdict(answer), "log": log}
        cores.make_calls_again(images)
        if sleeper.system_v:
            system_v.remove_all(sleeper.joined["ipc"])
        if asleep is not None:
            asleep.touch()
            gone(asleep)
        answer, up_ms = ask_criu(launch.restore(sleeper, str(images), str(clone)), enter, pipes)
        if not answer.success:
            log = (images / "restore.log").read_text()
            return 0, {"restore": dataclasses.asdict(answer), "log": log}
    finally:
        mount_clone.remove(holder, clone)
        for fd in [*enter, *pipes.values()]:
            os.close(fd)
    return answer.pid, {
        "down_ms": down_ms,
        "up_ms": up_ms,
        "dump": dataclasses.asdict(stats.read_dump(images)),
        "restore": dataclasses.asdict(stats.read_restore(images)),
    }


def main() -> int:
    """Command line."""
    container_id, rounds = sys.argv[1], int(sys.argv[2])
    asleep = Path(sys.argv[3]) if len(sys.argv) > 3 else None
    images = Path("/run/podferry-driver/images") / container_id
    clone = Path("/run/podferry-driver/mounts") / container_id
    seen = anatomy.read(container_id)
    state = anatomy.Places().state(container_id)
    os.kill(anatomy.parent_of(seen.init_pid), signal.SIGSTOP)
    for _ in range(rounds):
        pid, figures = sleep_and_wake(seen, images, clone, asleep)
        print(json.dumps(figures), flush=True)
        if not pid:
            return 1
        # What the monitor does to runc's state file once its container is back.
        kept = json.loads(state.read_text())
        kept["init_process_pid"] = pid
        kept["init_process_start"] = anatomy._start_ticks(pid)
        state.write_text(json.dumps(kept))
        seen = anatomy.read(container_id)
    shutil.rmtree(images)
    return 0


if __name__ == "__main__":
    sys.exit(main())
