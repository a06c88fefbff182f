# SPDX-License-Identifier: Apache-2.0
"""The peer: runc checkpoint and restore of the same container, with a connected client.

A copy of the container's bundle runs beside it in its pod, on another port and by runc alone,
because containerd would take a checkpointed container for ended.
"""

from __future__ import annotations

import json
import statistics
from typing import Any

from tests.bench.figures import spread
from tests.bench.wake.sleeper import FILL, VALUE_BYTES, Redis

TASKS = "/run/containerd/io.containerd.runtime.v2.task/k8s.io"
PORT = 6390

# Runs on the node: BUNDLE ADDRESS PORT ROUNDS VALUES FILL. Prints milliseconds per round.
SCRIPT = """
import json, os, shutil, socket, subprocess, sys, time
bundle, address, port, rounds, values, fill = sys.argv[1:]
place = "/run/podferry-peer"
shutil.rmtree(place, ignore_errors=True)
os.makedirs(place + "/bundle")
spec = json.load(open(bundle + "/config.json"))
spec["root"]["path"] = bundle + "/rootfs"
spec["process"]["args"] += ["--port", port]
spec["linux"]["cgroupsPath"] += "-peer"
json.dump(spec, open(place + "/bundle/config.json", "w"))
def runc(*words):
    quiet = subprocess.DEVNULL
    begun = time.monotonic()
    # What the container inherits must be outside of no mount namespace: runc reopens /dev/null.
    done = subprocess.run(["runc", *words], stdin=quiet, stdout=quiet, stderr=quiet)
    if done.returncode:
        log = place + "/work/" + ("dump.log" if words[0] == "checkpoint" else "restore.log")
        told = open(log).read()[-2000:] if os.path.exists(log) else done.returncode
        sys.exit(f"runc {words[0]}: {told}")
    return (time.monotonic() - begun) * 1000
def ask(*words):
    text = "".join(f"${len(w)}\\r\\n{w}\\r\\n" for w in words)
    client.sendall(f"*{len(words)}\\r\\n{text}".encode())
    return client.recv(100)
options = ["--image-path", place + "/images", "--work-path", place + "/work", "--tcp-established"]
runc("run", "--detach", "--bundle", place + "/bundle", "peer")
results = []
try:
    for _ in range(500):
        try:
            client = socket.create_connection((address, int(port)), timeout=60)
            break
        except ConnectionRefusedError:
            time.sleep(0.02)
    ask("EVAL", fill, "0", values)
    for number in range(int(rounds)):
        shutil.rmtree(place + "/images", ignore_errors=True)
        down_ms = runc("checkpoint", *options, "peer")
        begun = time.monotonic()
        runc("restore", "--detach", "--bundle", place + "/bundle", *options, "peer")
        answer = ask("INCR", "n")
        up_ms = (time.monotonic() - begun) * 1000
        if answer != b":%d\\r\\n" % (number + 1):
            sys.exit(f"wrong answer {answer}")
        results.append([down_ms, up_ms])
finally:
    subprocess.run(["runc", "delete", "--force", "peer"], stderr=subprocess.DEVNULL)
    shutil.rmtree(place, ignore_errors=True)
print(json.dumps(results))
"""


def measure(redis: Redis, rounds: int, mebibytes: int) -> dict[str, Any]:
    """Milliseconds from the start of `runc restore` to the reply to a client's request."""
    node = redis.node
    node.write("/var/tmp/podferry-peer.py", SCRIPT)
    missing = max(0, (mebibytes << 20) - redis.empty_bytes)
    argv = ["python3", "/var/tmp/podferry-peer.py", f"{TASKS}/{redis.container_id}"]
    argv += [redis.running.pod.ip, str(PORT), str(rounds)]
    argv += [str(missing // VALUE_BYTES), FILL]
    said = node.exec(argv, deadline_s=600).text
    down, up = zip(*json.loads(said.splitlines()[-1]), strict=True)
    return {
        "runc_wake_p50_ms": round(statistics.median(up), 2),
        "runc_sleep_p50_ms": round(statistics.median(down), 2),
        "runc_wake_ms": spread(up),
    }
