# SPDX-License-Identifier: Apache-2.0
"""Puts a container with a monitor to sleep and wakes it; runs on the node, by podferry's Python.

    monitor_driver.py sleep CONTAINER [TRIGGER_FIFO]   armed; TRIGGER_FIFO wakes it when written to
    monitor_driver.py sleep-spoilt CONTAINER           runc's state is damaged just before
    monitor_driver.py wake|state|disarm CONTAINER
    monitor_driver.py prepare CONTAINER                of one that sleeps: armed again, CRIU waits
    monitor_driver.py events CONTAINER COUNT           so many events, one JSON object per line

Prints one JSON object, {"error": ...} for a refusal. It ends after each command: a sleeping
container needs nobody but its monitor.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import shutil
import sys
import time
from pathlib import Path

from shim.checkpoint import anatomy, cores, mount_clone, request
from shim.core import launch
from shim.core.launch import Purpose, Sleeper
from shim.errors import PodferryError
from shim.runtime import monitor
from shim.runtime.monitor import Arming, Monitor

IMAGES = Path("/run/podferry-driver/images")
MOUNTS = Path("/run/podferry-driver/mounts")
KEPT = Path("/run/podferry-driver/kept")


def spoil(container_id: str) -> None:
    """Makes runc's state name a process that started at another time."""
    path = anatomy.Places().state(container_id)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"init_process_start": 1}))


async def sleep(container_id: str, trigger: str, *, spoilt: bool = False) -> dict[str, object]:
    """Arms, then dumps; the images are complete when it returns."""
    images, clone = IMAGES / container_id, MOUNTS / container_id
    shutil.rmtree(images, ignore_errors=True)
    images.mkdir(mode=0o700, parents=True)
    seen = anatomy.read(container_id)
    mount_clone.create(seen.init_pid, os.getpid(), clone)
    down = launch.dump(seen, str(images), Purpose.SLEEP)
    up = launch.restore(Sleeper.of(seen), str(images), str(clone))
    level = os.environ.get("PODFERRY_TEST_LOG_LEVEL")
    if level:  # tests kill CRIU at what its log says
        down, up = (
            dataclasses.replace(one, options=dict(one.options) | {"log_level": int(level)})
            for one in (down, up)
        )
    namespaces = [os.open(path, os.O_RDONLY) for path in down.enter]
    triggers = []
    if trigger:
        os.mkfifo(trigger)
        triggers.append(os.open(trigger, os.O_RDONLY | os.O_NONBLOCK))
    kept = KEPT / container_id
    kept.mkdir(parents=True, exist_ok=True)
    (kept / "enter").write_text(json.dumps(list(down.enter)))
    (kept / "request").write_bytes(request.encode(up))
    arming = Arming(
        request=request.encode(up),
        namespaces=tuple(namespaces),
        triggers=tuple(triggers),
    )
    if spoilt:
        spoil(container_id)
    async with Monitor(monitor.find(container_id)) as asked:
        await asked.arm(arming)
        began = time.monotonic()
        try:
            state = await asked.checkpoint(
                request.encode(down), images=str(images), namespaces=namespaces
            )
        except PodferryError as error:
            log = images / "dump.log"
            said = log.read_text()[-3000:] if log.exists() else ""
            return {"error": str(error), "log": said}
        took_ms = (time.monotonic() - began) * 1000
    cores.make_calls_again(images)
    return dataclasses.asdict(state) | {"took_ms": took_ms}


async def prepare(container_id: str) -> dict[str, object]:
    """Arms a sleeper so that its CRIU waits; its request is that of the sleep."""
    kept = KEPT / container_id
    joined = json.loads((kept / "enter").read_text())
    namespaces = tuple(os.open(path, os.O_RDONLY) for path in joined)
    arming = Arming(request=(kept / "request").read_bytes(), namespaces=namespaces, prepare=True)
    async with Monitor(monitor.find(container_id)) as asked:
        return dataclasses.asdict(await asked.arm(arming))


async def wake(container_id: str) -> dict[str, object]:
    """Wakes it and waits until it runs."""
    async with Monitor(monitor.find(container_id)) as asked:
        began = time.monotonic()
        try:
            state = await asked.wake()
        except PodferryError as error:
            log = IMAGES / container_id / "restore.log"
            return {"error": str(error), "log": log.read_text()[-3000:] if log.exists() else ""}
        return dataclasses.asdict(state) | {"took_ms": (time.monotonic() - began) * 1000}


async def events(container_id: str, count: int) -> None:
    """Prints events as they come."""
    async with Monitor(monitor.find(container_id)) as asked:
        await asked.subscribe()
        print("{}", flush=True)  # so that the reader knows when
        async for event in asked.events():
            print(json.dumps(dataclasses.asdict(event)), flush=True)
            count -= 1
            if count == 0:
                return


async def main() -> None:
    """Command line."""
    verb, container_id, *rest = sys.argv[1:]
    if verb == "events":
        await events(container_id, int(rest[0]))
        return
    if verb in ("sleep", "sleep-spoilt"):
        trigger = rest[0] if rest else ""
        answer = await sleep(container_id, trigger, spoilt=verb == "sleep-spoilt")
    elif verb == "prepare":
        answer = await prepare(container_id)
    elif verb == "wake":
        answer = await wake(container_id)
    else:
        async with Monitor(monitor.find(container_id)) as asked:
            state = await (asked.disarm() if verb == "disarm" else asked.state())
            answer = dataclasses.asdict(state)
    print(json.dumps(answer))


asyncio.run(main())
