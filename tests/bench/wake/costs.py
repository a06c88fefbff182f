# SPDX-License-Identifier: Apache-2.0
"""What the monitor costs a container that does not sleep, and how long a checkpoint stops one."""

from __future__ import annotations

import json
import statistics
from typing import Any

from cri_proto import runtime_v1_pb2 as cri
from tests.bench.wake.sleeper import Redis
from tests.testbed import front
from tests.testbed.kubelet import Kubelet
from tests.workloads import start

ROOT = "/run/containerd/runc/k8s.io"
ARCHIVE = "/var/lib/kubelet/bench-checkpoint.tar"
BUSY_MEBIBYTES = 25

# Runs on the node: FRONT ROOT CONTAINER ROUNDS. Prints the medians of both, by turns, in ms.
STATE_CALLS = """
import json, statistics, subprocess, sys, time
front, root, container, rounds = sys.argv[1:]
took = {front: [], "runc": []}
for _ in range(int(rounds)):
    for binary, samples in took.items():
        begun = time.monotonic()
        argv = [binary, "--root", root, "state", container]
        subprocess.run(argv, stdout=subprocess.DEVNULL, check=True)
        samples.append((time.monotonic() - begun) * 1000)
print(json.dumps([statistics.median(one) for one in took.values()]))
"""


def oci_calls(redis: Redis, rounds: int) -> dict[str, Any]:
    """`state` through the front and by runc itself, and what the monitor has resident."""
    node = redis.node
    argv = ["python3", "-c", STATE_CALLS, front.BINARY, ROOT, redis.container_id, str(rounds)]
    ours, runc = json.loads(node.exec(argv).text)
    return {
        "runtime_exec_overhead_ms": round(ours - runc, 3),
        "runc_state_ms": round(runc, 3),
        "monitor_rss_kib": monitor_kib(redis),
    }


def monitor_kib(redis: Redis) -> int:
    """What the container's monitor has resident: the parent of its first process, awake or not."""
    node = redis.node
    state = json.loads(node.read(f"{ROOT}/{redis.container_id}/state.json"))
    stat = node.read(f"/proc/{state['init_process_pid']}/stat").decode()
    status = node.read(f"/proc/{int(stat.rpartition(')')[2].split()[1])}/status").decode()
    resident = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(resident.split()[1])


def checkpoint(ours: Kubelet, containerds: Kubelet, rounds: int) -> dict[str, Any]:
    """The longest pause that a program saw of itself while it was checkpointed, either way.

    busy.c with 25 MiB, a fresh one each time and without a connection, which containerd refuses.
    """
    pauses: dict[str, list[float]] = {"ours": [], "containerd": []}
    errors: dict[str, list[str]] = {"ours": [], "containerd": []}
    for _ in range(rounds):
        for name, kubelet in (("ours", ours), ("containerd", containerds)):
            said = _checkpointed(kubelet)
            pauses[name].append(float(said["pause_ms"]))
            errors[name] += [said["first"]] if said["errors"] != "0" else []
    mine, theirs = (statistics.median(one) for one in pauses.values())
    return {
        "checkpoint_freeze_ms": round(mine, 2),
        "containerd_checkpoint_freeze_ms": round(theirs, 2),
        "checkpoint_freeze_ratio": round(theirs / mine, 2),
        "checkpoint_freeze_samples": pauses,
        # A program that CRIU dumps and lets run sees its nanosleep interrupted, either way.
        "checkpoint_errors_seen": errors,
    }


def _checkpointed(kubelet: Kubelet) -> dict[str, Any]:
    """What busy.c says of itself after a checkpoint."""
    command = ("/program/busy", str(start.BUSY.port), str(BUSY_MEBIBYTES))
    workload = start.Workload(
        "busy", "busy", start.BUSY.port, start.BUSY.image, command, start.BUSY.program
    )
    running = start.start(kubelet, workload)
    with running.client() as client:
        client.ask()
    request = cri.CheckpointContainerRequest(
        container_id=running.pod.container_id, location=ARCHIVE, timeout=120
    )
    kubelet.cri.call("CheckpointContainer", request, cri.CheckpointContainerResponse, 120.0)
    with running.client() as client:
        client.ask(50)
        said = client.report().said
    kubelet.delete_pod(running.pod, grace_s=0)
    kubelet.node.path(ARCHIVE).unlink()
    return said
