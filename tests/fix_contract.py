# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the contract tests: the service between a test client and the fake runtime."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
import pytest_asyncio

from tests.contract import shim_process
from tests.contract.client import connect, until
from tests.contract.fake_runtime import FakeRuntime
from tests.contract.shim_process import ShimProcess


@dataclass
class Rig:
    """A backend, the service in front of it, and a channel to each.

    Attributes:
        direct: to the backend itself.
        through: to the service.
    """

    fake: FakeRuntime
    shim: ShimProcess
    direct: grpc.aio.Channel
    through: grpc.aio.Channel

    def ways(self) -> tuple[tuple[str, grpc.aio.Channel], ...]:
        """Both ways of calling, with a name for messages."""
        return ("direct", self.direct), ("through", self.through)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: Any) -> Iterator[None]:
    """Puts the logs of the services that live into the report of a failed test."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.failed and {"shims", "rig"} & set(getattr(item, "fixturenames", ())):
        for shim in shim_process.LIVE:
            report.sections.append((f"log of podferry in {shim.home}", shim.tail()))


@pytest.fixture
def home() -> Iterator[Path]:
    """An empty directory with a short name: a socket's path has at most 107 bytes."""
    path = Path(tempfile.mkdtemp(prefix="pf-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def _own_children() -> Iterator[None]:
    shim_process.adopt_orphans(True)
    yield
    shim_process.adopt_orphans(False)


@pytest.fixture
def shims(home: Path, _own_children: None) -> Iterator[ShimFactory]:
    """Makes services; ends them all, and fails if one leaves a socket or a process behind."""
    factory = ShimFactory(home)
    yield factory
    factory.stop()


class ShimFactory:
    """Makes services, each in a directory of its own.

    Args:
        home: where the directories are.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        self._made: list[ShimProcess] = []

    def make(self, runtime: Path, **options: Any) -> ShimProcess:
        """A service that is not started yet; see `ShimProcess` for the options."""
        directory = self._home / f"node{len(self._made)}"
        directory.mkdir()
        shim = ShimProcess(directory, runtime, **options)
        self._made.append(shim)
        return shim

    def stop(self) -> None:
        """Ends all services."""
        problems = []
        for shim in self._made:
            try:
                shim.stop()
            except AssertionError as error:
                problems.append(str(error))
            problems += [f"left behind: {path}" for path in shim.traces()]
        assert not problems, problems


@pytest_asyncio.fixture(loop_scope="session")
async def fake(home: Path) -> AsyncIterator[FakeRuntime]:
    """A running backend of this test's own."""
    runtime = FakeRuntime(home / "runtime.sock")
    await runtime.start()
    yield runtime
    await runtime.stop()


@pytest_asyncio.fixture(loop_scope="session")
async def own_rig(fake: FakeRuntime, shims: ShimFactory) -> AsyncIterator[Rig]:
    """A rig of this test's own, which it may break."""
    shim = await shims.make(fake.path).start()
    async with connect(fake.path) as direct, connect(shim.socket) as through:
        yield Rig(fake, shim, direct, through)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def _shared_rig() -> AsyncIterator[Rig]:
    home = Path(tempfile.mkdtemp(prefix="pf-"))
    runtime = FakeRuntime(home / "runtime.sock")
    await runtime.start()
    factory = ShimFactory(home)
    shim = factory.make(runtime.path, connection_age_s=600.0)
    try:
        await shim.start()
        # From here on the backend sees no call but those of the tests.
        await until(lambda: "registry rebuilt" in shim.log, what="the lists are read")
        async with connect(runtime.path) as direct, connect(shim.socket) as through:
            yield Rig(runtime, shim, direct, through)
        factory.stop()
    finally:
        shim.kill()
        await runtime.stop()
        shutil.rmtree(home)


@pytest_asyncio.fixture(loop_scope="session")
async def rig(_shared_rig: Rig) -> AsyncIterator[Rig]:
    """The rig that most tests share, with nothing scripted; each must leave it without a call."""
    shared = _shared_rig
    shared.fake.reset()
    process = psutil.Process(shared.shim.pid)
    before_fds = process.num_fds()
    yield shared
    await until(lambda: not shared.fake.running(), what="all calls at the backend end")
    shared.fake.reset()
    await shared.shim.idle()
    await until(
        lambda: process.num_fds() <= before_fds + 2,
        what=f"the service closes what it opened ({before_fds} fds before, 2 allowed on top)",
    )


@pytest.fixture
def odd(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Chooses the kind of `tests.contract.odd_shim` for services started in this test."""

    def choose(kind: str) -> str:
        monkeypatch.setitem(os.environ, "ODD", kind)
        return "tests.contract.odd_shim"

    return choose
