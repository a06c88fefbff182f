# SPDX-License-Identifier: Apache-2.0
"""Owns the image registry on a node's loopback, which serves stand-ins for what critest pulls."""

from __future__ import annotations

import time
from pathlib import Path

from tests.testbed import recipe
from tests.testbed.errors import NodeFailed
from tests.testbed.node import Node
from tests.testbed.process import POLL_S

ADDRESS = "127.0.0.1:5000"
HERE = Path(__file__).parent
# On the node's volume: layers are larger than what belongs on a tmpfs.
DIRECTORY = "/var/lib/node/conformance"
TESTBED = "/usr/local/lib/podferry-testbed"
# containerd's own name for "every registry that has no directory of its own".
HOSTS = "/etc/containerd/certs.d/_default/hosts.toml"
NAMESPACE = "stand-ins"
READY_DEADLINE_S = 30.0

CONFIG = f"""version: 0.1
log: {{level: warn}}
storage:
  filesystem: {{rootdirectory: {DIRECTORY}/registry}}
http: {{addr: "{ADDRESS}"}}
"""
MIRROR = f"""server = "http://{ADDRESS}"
[host."http://{ADDRESS}"]
  capabilities = ["pull", "resolve"]
"""


def start(node: Node) -> list[str]:
    """Serves the stand-ins and points the node's containerd at them; returns their names.

    The registry ends with the node.

    Raises:
        NodeFailed: it does not come up.
        CommandFailed: the stand-ins cannot be made or pushed.
    """
    node.write(f"{DIRECTORY}/registry.yml", CONFIG)
    daemon = node.daemon("registry", ["docker-registry", "serve", f"{DIRECTORY}/registry.yml"])
    daemon.start()
    names = _make(node)
    _wait(node)
    _push(node, names)
    # containerd reads it at each pull.
    node.write(HOSTS, MIRROR)
    return names


def _make(node: Node) -> list[str]:
    for source in (HERE / "stand_ins.py", HERE / "image" / "sh.c", *recipe.CONTEXT_MODULES):
        node.write(f"{DIRECTORY}/{source.name}", source.read_bytes())
    node.exec(["cp", f"{TESTBED}/pause", DIRECTORY])
    compile_shell = ["gcc", "-static", "-O2", "-Wall", "-Wextra", "-Werror"]
    node.exec([*compile_shell, "-o", f"{DIRECTORY}/sh", f"{DIRECTORY}/sh.c"])
    made = node.exec(["python3", f"{DIRECTORY}/stand_ins.py", ADDRESS, DIRECTORY])
    return made.text.splitlines()


def _wait(node: Node) -> None:
    deadline = time.monotonic() + READY_DEADLINE_S
    argv = ["curl", "--silent", "--fail", "--max-time", "2", f"http://{ADDRESS}/v2/"]
    while node.exec(argv, check=False).status != 0:
        if time.monotonic() > deadline:
            raise NodeFailed(f"no registry answers at {ADDRESS}", where=node.name)
        time.sleep(POLL_S)


def _push(node: Node, names: list[str]) -> None:
    ctr = ["ctr", f"--namespace={NAMESPACE}"]
    node.exec([*ctr, "images", "import", "--no-unpack", f"{DIRECTORY}/images.tar"])
    for name in names:
        node.exec([*ctr, "images", "push", "--plain-http", name])
    # Pulls must come from the registry, not from what containerd's content store has already.
    node.exec([*ctr, "images", "remove", "--sync", *names])
    for digest in node.exec([*ctr, "content", "list", "--quiet"]).text.splitlines():
        node.exec([*ctr, "content", "remove", digest])
    node.exec(["ctr", "namespaces", "remove", NAMESPACE])
