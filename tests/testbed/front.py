# SPDX-License-Identifier: Apache-2.0
"""Puts podferry-runtime in front of a node's runc, built from the tree as it stands."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.testbed import containerd, engine, recipe
from tests.testbed.errors import NodeFailed
from tests.testbed.node import Node, may_raise_limits

BINARY = "/opt/podferry/libexec/podferry-runtime"
BUILD = recipe.REPOSITORY / "build" / "front"
BUILD_DEADLINE_S = 600
# pod_annotations: containerd shows a pod's annotations to the OCI runtime only if told so.
EXTRA = f"""
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
  pod_annotations = ["podferry.dev/*"]

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
  BinaryName = "{BINARY}"
"""


def build() -> Path:
    """The binary, static, as this machine's compiler makes it.

    Raises:
        NodeFailed: it does not build; carries the end of what the build said.
    """
    with engine.locked("front"):
        for command in (
            ["cmake", "-S", str(recipe.REPOSITORY), "-B", str(BUILD), "-DBUILD_TESTING=OFF"],
            ["cmake", "--build", str(BUILD), "--target", "podferry-runtime"],
        ):
            done = subprocess.run(
                command, check=False, capture_output=True, text=True, timeout=BUILD_DEADLINE_S
            )
            if done.returncode != 0:
                said = (done.stdout + done.stderr)[-4000:]
                raise NodeFailed(f"podferry-runtime does not build: {said}", where="this machine")
    return BUILD / "native" / "runtime" / "podferry-runtime"


def install(node: Node) -> None:
    """Copies the binary into the node, names it in containerd's configuration, restarts that."""
    content = build().read_bytes()
    # Beside its place and renamed: the old one may be running.
    node.write(f"{BINARY}.new", content, 0o755)
    node.path(f"{BINARY}.new").replace(node.path(BINARY))
    _configure(node, EXTRA)


def uninstall(node: Node) -> None:
    """Makes runc the runtime again; containers that run keep their monitors."""
    _configure(node, "")


@contextlib.contextmanager
def installed(node: Node) -> Iterator[None]:
    """For as long as the context lasts."""
    install(node)
    try:
        yield
    finally:
        uninstall(node)


def _configure(node: Node, extra: str) -> None:
    text = containerd.config(restrict_oom_score_adj=not may_raise_limits(), extra=extra)
    if node.read(containerd.CONFIG).decode() != text:
        node.write(containerd.CONFIG, text)
        node.containerd.restart()
