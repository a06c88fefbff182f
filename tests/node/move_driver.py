# SPDX-License-Identifier: Apache-2.0
"""Asks container monitors for the steps of a move; runs on the nodes, by podferry's Python.

    move_driver.py hold CONTAINER [lazy]     dumps and holds; what T needs is left beside the images
    move_driver.py arm CONTAINER IMAGES [lazy]   arms a claimed container with images from elsewhere
    move_driver.py upper CONTAINER           where its writable layer is
    move_driver.py resume|depart|claim|unclaim|prepare|stage|go|drop|state CONTAINER [STATUS]
    move_driver.py exit CONTAINER [STATUS]
    move_driver.py announce|withdraw CONTAINER

Prints one JSON object: the snapshot and the milliseconds, or {"error": ...}.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import shutil
import sys
import time
from collections.abc import Awaitable
from pathlib import Path

import msgspec

from shim.checkpoint import anatomy, bed, cores, mount_clone, request, upper
from shim.core import launch
from shim.core.launch import Purpose, Sleeper
from shim.errors import PodferryError
from shim.runtime import claims, monitor
from shim.runtime.monitor import Arming, Monitor, Pager
from shim.runtime.monitor_wire import Snapshot

PLACE = Path("/run/podferry-driver")
LOG_LEVEL = int(os.environ.get("PODFERRY_TEST_LOG_LEVEL", "2"))


async def timed(step: Awaitable[Snapshot | None]) -> dict[str, object]:
    """What a step gave, and how long it took."""
    began = time.monotonic()
    state = await step
    took_ms = (time.monotonic() - began) * 1000
    return (dataclasses.asdict(state) if state else {}) | {"took_ms": took_ms}


async def hold(asked: Monitor, container_id: str, *, lazy: bool) -> dict[str, object]:
    """Dumps it for a move and lets it stand."""
    images = PLACE / "images" / container_id
    shutil.rmtree(images, ignore_errors=True)
    images.mkdir(mode=0o700, parents=True)
    seen = anatomy.read(container_id)
    down = launch.dump(seen, str(images), Purpose.MOVE, lazy=lazy)
    down = dataclasses.replace(down, options=dict(down.options) | {"log_level": LOG_LEVEL})
    namespaces = [os.open(path, os.O_RDONLY) for path in down.enter]
    answer = await timed(
        asked.hold_checkpoint(request.encode(down), images=str(images), namespaces=namespaces)
    )
    cores.make_calls_again(images)
    (images / "sleeper.json").write_bytes(msgspec.json.encode(Sleeper.of(seen)))
    return answer


async def arm(asked: Monitor, container_id: str, images: Path, *, lazy: bool) -> dict[str, object]:
    """Says how the container from elsewhere is restored here."""
    sleeper = msgspec.json.decode((images / "sleeper.json").read_bytes(), type=Sleeper)
    here = anatomy.read(container_id)
    clone = PLACE / "mounts" / container_id
    mount_clone.remove(os.getpid(), clone)
    mount_clone.create(here.init_pid, os.getpid(), clone)
    up = launch.restore_elsewhere(sleeper, here, str(images), str(clone), lazy=lazy)
    up = dataclasses.replace(up, options=dict(up.options) | {"log_level": LOG_LEVEL})
    journal = images / "pager.journal"
    journal.unlink(missing_ok=True)
    argv = (str(bed.PAGER), "--images", str(images), "--journal", str(journal))
    arming = Arming(
        request=request.encode(up),
        namespaces=tuple(os.open(path, os.O_RDONLY) for path in up.enter),
        pager=Pager(argv) if lazy else None,
    )
    return await timed(asked.arm(arming))


async def ask(verb: str, container_id: str, rest: list[str]) -> dict[str, object]:
    """One verb."""
    if verb == "announce":
        claims.announce(container_id)
        return {}
    if verb == "withdraw":
        return {"withdrawn": claims.withdraw(container_id)}
    if verb == "upper":
        return {"upper": str(upper.directory_of(anatomy.read(container_id).mounts))}
    async with Monitor(monitor.find(container_id)) as asked:
        match verb:
            case "hold":
                return await hold(asked, container_id, lazy="lazy" in rest)
            case "arm":
                return await arm(asked, container_id, Path(rest[0]), lazy="lazy" in rest)
            case "depart":
                return await timed(asked.depart(*map(int, rest)))
            case "exit":
                return await timed(asked.exit(*map(int, rest)))
            case _:
                return await timed(getattr(asked, verb)())


async def main() -> None:
    """Command line."""
    verb, container_id, *rest = sys.argv[1:]
    try:
        answer = await ask(verb, container_id, rest)
    except PodferryError as error:
        answer = {"error": str(error)}
    print(json.dumps(answer))


asyncio.run(main())
