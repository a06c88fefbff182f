# SPDX-License-Identifier: Apache-2.0
"""`podferry serve`: the node service itself; systemd runs it."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import click

from shim import logs, settings

# C-core 1.85 polls sockets by its event engine's threads; with its older poller a carried call
# takes a third less processor time and 0.2 ms less at the median (docs/design.md).
FASTER_POLLING = "-event_engine_client,-event_engine_listener"


@click.command()
@click.option("--takeover", is_flag=True, hidden=True, help="Take the socket of a running service.")
@click.pass_obj
def serve(config: Path | None, takeover: bool) -> None:
    """Run the node service in the foreground.

    Serves CRI on `cri.listen` and passes every call to the runtime at `cri.runtime`. Normally
    started by systemd (`podferry install`). Ends at SIGTERM after the calls under way.

    \b
    Exit status: 0 after SIGTERM or a handover, 1 if it could not start (the reason is on stderr).
    """
    os.environ.setdefault("GRPC_EXPERIMENTS", FASTER_POLLING)  # read when grpc is imported
    import uvloop

    from shim.server.service import Service

    chosen = settings.load(config or settings.DEFAULT_PATH, required=config is not None)
    logs.start(chosen.log.level)
    # libuv's loop takes a tenth off every call and a fifth off the slowest (docs/design.md).
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(Service, chosen, takeover))


async def _serve(service_class: type, chosen: settings.Settings, takeover: bool) -> None:
    await service_class(chosen).run(takeover=takeover)  # grpc.aio binds to the running loop
