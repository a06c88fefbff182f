# SPDX-License-Identifier: Apache-2.0
"""Moves a UDP echo to and fro while a client sends numbered datagrams, and counts the lost ones."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from tests.testbed.moving import MovingNode
from tests.testbed.node import Node
from tests.workloads import start
from tests.workloads.start import UDP

# On the client: ADDRESS PORT. Sends one every 2 ms until stdin closes; waits for the late ones.
SCRIPT = """
import json, socket, struct, sys, threading, time
address, port = sys.argv[1], int(sys.argv[2])
made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
made.connect((address, port))
made.settimeout(0.5)
seen, sent, ending = set(), 0, threading.Event()
def receive():
    quiet = 0
    while quiet < 6:
        try:
            seen.add(struct.unpack_from("!I", made.recv(2048))[0])
            quiet = 0
        except TimeoutError:
            quiet += ending.is_set()
        except OSError as error:
            print(json.dumps({"error": str(error)}), flush=True)
thread = threading.Thread(target=receive)
thread.start()
threading.Thread(target=lambda: (sys.stdin.read(), ending.set()), daemon=True).start()
print("{}", flush=True)
while not ending.is_set():
    made.send(struct.pack("!I", sent) + bytes(60))
    sent += 1
    time.sleep(0.002)
thread.join()
print(json.dumps({"sent": sent, "lost": sent - len(seen)}), flush=True)
"""


def measure(pair: list[MovingNode], client: Node, count: int) -> dict[str, Any]:
    """So many moves; datagrams that were sent, and those that no answer came to."""
    here, there = pair
    running = start.start(here.kubelet, UDP)
    sandbox_id = running.pod.sandbox_id
    running.client().close()  # it listens
    client.write("/var/tmp/podferry-datagrams.py", SCRIPT)
    argv = ["/usr/bin/python3", "-u", "/var/tmp/podferry-datagrams.py"]
    process = subprocess.Popen(
        client.inside.argv([*argv, running.pod.ip, str(UDP.port)]),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        process.stdout.readline()
        for _ in range(count):
            here.migrate_sandbox(sandbox_id, there)
            here.remove_sandbox(sandbox_id)
            here, there = there, here
            sandbox_id = here.sandbox_of(running.pod.spec.uid)
        said, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
        for one in pair:
            one.remove_all()
    lines = [json.loads(line) for line in said.splitlines()]
    return {**lines[-1], "errors": [one["error"] for one in lines if "error" in one]}
