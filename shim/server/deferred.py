# SPDX-License-Identifier: Apache-2.0
"""Does, soon after the socket serves, what no call of a start needs: loads modules, asks CRIU.

After a crash kubelet waits for the start, and importing takes most of it; so these are imported
inside the functions that use them. They must not stay unloaded until then: an upgrade may have
replaced the files on disk by that time, and one process would run two releases.
"""

from __future__ import annotations

import asyncio
import importlib

MODULES = (
    "importlib.metadata",
    "psutil",
    "shim.checkpoint.archive",
    "shim.checkpoint.datagrams",
    "shim.checkpoint.overview",
    "shim.checkpoint.survey",
    "shim.core.criu_errors",
    "shim.core.preflight",
    "shim.migration.commands",
)
AFTER_S = 1.0
"""Until then the calls that waited for the start have the processor."""


async def load() -> None:
    """Imports them one by one, in a thread, and has CRIU find out about the kernel.

    Raises:
        ImportError: the installation is broken; the service must not go on.
    """
    await asyncio.sleep(AFTER_S)
    for name in MODULES:
        await asyncio.to_thread(importlib.import_module, name)
    from shim.checkpoint import features

    await features.find_out()
