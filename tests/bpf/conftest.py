# SPDX-License-Identifier: Apache-2.0
"""What the BPF tests need: root, the extension, and a kernel that loads the programs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from shim._native import Activity
from shim._native_hold import Flag
from shim.errors import MissingFeature, NativeError
from shim.network.hold import Hold
from tests.bpf.hold_net import Net, bpf_root, net

# More than any test sends in all: on a crowded machine a release may come after all of them.
MANY_PACKETS = 100_000


@pytest.fixture
def activity() -> Iterator[Activity]:
    """The activity programs, loaded; skips where this machine cannot load any BPF program."""
    if os.geteuid() != 0:
        pytest.skip("needs root to load BPF programs")
    try:
        loaded = Activity()
    except MissingFeature as error:
        pytest.skip(str(error))
    except NativeError as error:
        # EACCES and EINVAL are the verifier's: a program of ours that it refuses is a failure.
        if error.errno_value not in (1, 38):  # EPERM, ENOSYS: no BPF here
            raise
        pytest.skip(f"BPF is not allowed here: {error}")
    with loaded:
        yield loaded


@pytest.fixture
def world(tmp_path: Path) -> Iterator[tuple[Net, Path]]:
    """A pod, a client and a bpf file system of the test's own."""
    with net() as made, bpf_root(tmp_path / "bpf") as root:
        yield made, root


@pytest.fixture(params=["tcx", "clsact"])
def hold(world: tuple[Net, Path], request: pytest.FixtureRequest) -> Iterator[Hold]:
    """The pod's hold, attached in either way."""
    made, root = world
    clsact = request.param == "clsact"
    with Hold.create(
        "pod-1",
        made.netns_path,
        made.addresses,
        root=root,
        max_packets=MANY_PACKETS,
        clsact=clsact,
    ) as created:
        # tcx may be absent, and is then done without.
        assert clsact <= bool(created.settings.flags & Flag.CLSACT)
        try:
            yield created
        finally:
            created.remove()
            assert Hold.find_all(root) == []


@pytest.fixture
def pods(world: tuple[Net, Path]) -> Net:
    """The pod and the client of `hold`."""
    return world[0]
