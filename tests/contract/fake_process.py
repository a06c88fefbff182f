# SPDX-License-Identifier: Apache-2.0
"""The fake runtime in a process of its own, for tests that kill or stop it.

    python -m tests.contract.fake_process SOCKET MODE HEX

HEX is a pickle of the scripts: a list of (method, script).
"""

from __future__ import annotations

import asyncio
import pickle
import subprocess
import sys
from pathlib import Path

from tests.contract.client import until
from tests.contract.fake_runtime import FakeRuntime, Script
from tests.contract.shim_process import ROOT, accepts


class FakeProcess:
    """A backend that can be killed.

    Args:
        path: its socket.
        scripts: what it does; they must be picklable.
    """

    def __init__(self, path: Path, scripts: list[tuple[str, Script]] | None = None) -> None:
        self.path = path
        self.mode = 0o660
        self._scripts = pickle.dumps(scripts or []).hex()
        self.popen: subprocess.Popen[bytes] | None = None

    def spawn(self) -> None:
        """Starts it without waiting."""
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "tests.contract.fake_process", str(self.path), oct(self.mode),
             self._scripts],
            cwd=ROOT, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    async def start(self) -> None:
        """Starts it and waits until it listens."""
        self.spawn()
        await self.listening()

    async def listening(self) -> None:
        """Waits until it listens."""
        await until(lambda: accepts(self.path), what="the backend listens", step_s=0.002)

    def kill(self) -> None:
        """kill -9; its socket's path stays."""
        if self.popen:
            self.popen.kill()
            self.popen.wait(10)
            self.popen = None


async def _serve(path: Path, mode: int, scripts: list[tuple[str, Script]]) -> None:
    fake = FakeRuntime(path, mode=mode)
    for method, script in scripts:
        fake.on(method, script)
    await fake.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(
        _serve(Path(sys.argv[1]), int(sys.argv[2], 8), pickle.loads(bytes.fromhex(sys.argv[3])))
    )
