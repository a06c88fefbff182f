# SPDX-License-Identifier: Apache-2.0
"""``python -m tests.demo``: a redis moves to another node and back under a live client.

Two real nodes and a third one with the client. Afterwards the same redis is moved by CRIU alone, so
that both can be compared. Ends with an exit status other than 0 if anything was lost.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

import click

from shim.errors import PodferryError
from tests.bench.migrate.loading import Loading
from tests.bench.migrate.plain import ADDRESS, PORT, Plain
from tests.bench.migrate.series import IDLE_CONNECTIONS
from tests.bench.wake.sleeper import FILL, VALUE_BYTES
from tests.demo.picture import Panel, draw
from tests.testbed import recipe, testbed
from tests.testbed.moving import MovingNode, moving
from tests.testbed.node import Node
from tests.testbed.service import PODFERRY
from tests.workloads import start
from tests.workloads.start import REDIS

MEBIBYTES = 200
VALUES = (MEBIBYTES << 20) // VALUE_BYTES
WATCH_S = 0.5
PICTURE = recipe.REPOSITORY / "build" / "demo.svg"


def main() -> None:
    """Tells the story from top to bottom."""
    step("Three nodes: two with containerd, runc, CNI and podferry; a third one for the client")
    with testbed.nodes(3) as nodes:
        first, second, client = nodes
        with moving([first, second]) as pair:
            ours = show_ours(pair, client)
        step("The same redis, moved by CRIU alone (stop and copy), for comparison")
        theirs = show_plain(Plain(first, second, client))
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    PICTURE.write_text(draw([ours, theirs]), "utf-8")
    step("The nodes are gone, and everything that was made with them")
    tell(f"a picture of what the client felt: {PICTURE}")


def show_ours(pair: list[MovingNode], client: Node) -> Panel:
    """There and back by podferry."""
    first, second = pair
    step(f"A redis of {MEBIBYTES} MiB on {first.name}, an unmodified image, an ordinary pod")
    running = start.start(first.kubelet, REDIS)
    running.client().close()  # it listens
    fill = ["redis-cli", "EVAL", FILL, "0", str(VALUES)]
    first.kubelet.exec(running.pod, fill, timeout_s=120)
    tell(f"pod default/redis at {running.pod.ip}; `podferry explain`:")
    show(first.node, ["explain", "default/redis"])
    with Loading(client, running.pod.ip, REDIS.port, IDLE_CONNECTIONS) as load:
        tell(f"one connection asks all the time, {IDLE_CONNECTIONS} say nothing, new ones come")
        load.begin()
        moves = []
        sandbox_id = running.pod.sandbox_id
        for here, there in ((first, second), (second, first)):
            step(f"podferry migrate default/redis --to {there.name}")
            moves.append(move(load, here, there, sandbox_id))
            sandbox_id = there.sandbox_of(running.pod.spec.uid)
        time.sleep(WATCH_S)
        felt = load.timeline()
        felt |= {key: load.check()[key] for key in ("resets", "wrong", "errors")}
    step("What the client felt over both moves")
    tell(f"requests answered          {felt['asked']}")
    tell(f"longest wait for an answer {felt['longest_ms']:.0f} ms")
    tell(f"new connections            {len(felt['fresh_ms'])}, all of which succeeded")
    tell(f"connections lost           {felt['resets']} of {IDLE_CONNECTIONS + 1}")
    tell(f"wrong answers              {felt['wrong']}")
    if felt["resets"] or felt["wrong"]:
        raise PodferryError(f"the client has noticed: {felt['errors']}")
    title = f"podferry: {MEBIBYTES} MiB redis, there and back; longest {felt['longest_ms']:.0f} ms"
    return Panel(title, felt["timeline"], moves)


def move(
    load: Loading, here: MovingNode, there: MovingNode, sandbox_id: str
) -> tuple[float, float]:
    """One move with a live view of both nodes and the client; when it began and ended."""
    time.sleep(WATCH_S)
    begun_s = load.end()["since_s"]
    done = threading.Event()
    view = threading.Thread(target=watch, args=[load, here, there, done])
    view.start()
    try:
        result = here.node.exec([PODFERRY, "migrate", sandbox_id, "--to", there.name], check=False)
    finally:
        done.set()
        view.join()
    ended_s = load.end()["since_s"]
    for line in result.text.splitlines():
        tell(line)
    if result.status != 0:
        raise PodferryError(f"it did not move: {result.stderr.decode().strip()}")
    return begun_s, ended_s


def watch(load: Loading, here: MovingNode, there: MovingNode, done: threading.Event) -> None:
    """A line every quarter of a second while a move is under way."""
    last = load.end()
    while not done.wait(0.25):
        now = load.end()
        per_s = (now["asked"] - last["asked"]) / max(1e-3, now["since_s"] - last["since_s"])
        place = " + ".join(
            f"{one.name}: {len(one.processes('redis-server'))} redis" for one in (here, there)
        )
        click.echo(
            f"   | {now['since_s']:6.2f} s  {place}   {per_s:8.0f} answers/s   "
            f"longest {now['longest_ms']:6.1f} ms   lost {now['resets']}"
        )
        last = now


def show_plain(plain: Plain) -> Panel:
    """The same by CRIU alone."""
    try:
        plain.start(VALUES, FILL)
        with Loading(plain.client, ADDRESS, PORT, 0) as load:
            load.begin()
            time.sleep(WATCH_S)
            begun_s = load.end()["since_s"]
            plain.move("stop-and-copy")
            time.sleep(WATCH_S)
            felt: dict[str, Any] = load.timeline()
    finally:
        plain.stop()
    tell(f"longest wait for an answer {felt['longest_ms']:.0f} ms")
    tell(f"connections that failed    {felt['resets']}")
    title = f"CRIU alone, stop and copy: longest {felt['longest_ms']:.0f} ms"
    return Panel(title, felt["timeline"], [(begun_s, felt["since_s"] - WATCH_S)])


def show(node: Node, words: list[str]) -> None:
    """What a command of podferry says."""
    for line in node.exec([PODFERRY, *words], check=False).text.splitlines():
        tell(f"  {line}")


def step(text: str) -> None:
    """A heading."""
    click.secho(f"\n== {text}", bold=True)


def tell(text: str) -> None:
    """A line of the story."""
    click.echo(f"   {text}")


if __name__ == "__main__":
    try:
        main()
    except PodferryError as error:
        sys.exit(f"demo: {error}")
