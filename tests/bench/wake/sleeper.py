# SPDX-License-Identifier: Apache-2.0
"""Puts a redis of some size to sleep and wakes it by its connected client, round after round."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from cri_proto import control_pb2 as pb
from cri_proto import control_pb2_grpc
from shim.server.predecessor import control_path
from tests.bench.figures import percentile, spread
from tests.testbed.errors import NodeFailed
from tests.testbed.kubelet import Kubelet
from tests.testbed.node import Node
from tests.testbed.process import POLL_S
from tests.workloads import start
from tests.workloads.asking import Client
from tests.workloads.start import Running

RUN_DIR = "/run/podferry"
VALUE_BYTES = 1 << 16
SETTLE_DEADLINE_S = 60.0
CALL_DEADLINE_S = 300.0
UNITS = VALUE_BYTES // 8 - 8  # with its header a value just fits into the allocator's 64 KiB
FILL = (
    "for i=1,tonumber(ARGV[1]) do redis.call('SET', 'fill:'..i, "
    f"string.rep(string.format('%07d:', i), {UNITS})) end"
)
TRAFFIC_PERIOD_MS = 2.0
PERIOD_US, QUOTA_100M_US = 100_000, 10_000


@dataclass
class Rounds:
    """What a series of sleeps and wakes gave."""

    wake_ms: list[float] = field(default_factory=list)
    frozen_ms: list[float] = field(default_factory=list)
    sleep_ms: list[float] = field(default_factory=list)
    resets: int = 0
    wrong: int = 0
    dropped: int = 0
    resident_bytes: int = 0

    def figures(self) -> dict[str, Any]:
        """As they are printed."""
        return {
            "wake_p50_ms": round(statistics.median(self.wake_ms), 2),
            "wake_p99_ms": round(percentile(self.wake_ms, 0.99), 2),
            "wake_ms": spread(self.wake_ms),
            "sleep_frozen_ms": round(statistics.median(self.frozen_ms), 2),
            "sleep_took_ms": round(statistics.median(self.sleep_ms), 2),
            "resets": self.resets,
            "wrong_answers": self.wrong,
            "dropped_packets": self.dropped,
            "resident_mib": round(self.resident_bytes / 2**20, 1),
            "rounds": len(self.wake_ms),
        }


class Redis:
    """A redis in a pod, its client, and podferry's control socket.

    Args:
        kubelet: on podferry's socket.
        mebibytes: what it shall have resident.
    """

    def __init__(self, kubelet: Kubelet, mebibytes: int) -> None:
        self.kubelet = kubelet
        self.node = kubelet.node
        self.running: Running = start.start(kubelet, start.REDIS)
        self.client: Client = Client(self.node, "counter", self.running.pod.ip, start.REDIS.port)
        control = self.node.path(str(control_path(RUN_DIR)))
        self.channel = grpc.insecure_channel(f"unix:{control}")
        self.stub = control_pb2_grpc.ControlStub(self.channel)
        self.client.ask()
        self.empty_bytes = self.resident_bytes()
        self._fill(mebibytes << 20)

    def close(self) -> None:
        """Ends its client and its pod."""
        self.client.close()
        self.channel.close()
        self.kubelet.delete_pod(self.running.pod, grace_s=0)

    @property
    def container_id(self) -> str:
        """Its only container."""
        return self.running.pod.container_id

    def sleep(self) -> pb.SleptContainer:
        """Puts it to sleep."""
        request = pb.SleepRequest(pod=self.running.pod.spec.name)
        slept: pb.SleptContainer
        (slept,) = self.stub.Sleep(request, timeout=CALL_DEADLINE_S).containers
        return slept

    def settle(self) -> None:
        """Waits until podferry has tidied up after a wake and the pager has ended."""
        until = time.monotonic() + SETTLE_DEADLINE_S
        while self._state() != "running" or self._images() or pids(self.node, "podferry-pager"):
            if time.monotonic() > until:
                raise NodeFailed(
                    "a wake is not followed by order", where=self.running.pod.spec.name
                )
            time.sleep(POLL_S)

    def cycle(self, rounds: int, into: Rounds) -> Rounds:
        """Sleep, then a request; so many times."""
        self.client.ask(5)
        into.resident_bytes = self.resident_bytes()
        for _ in range(rounds):
            slept = self.sleep()
            into.frozen_ms.append(slept.frozen_ms)
            into.sleep_ms.append(slept.took_ms)
            into.wake_ms += self.client.ask()
            self.settle()
        felt = self.client.report()
        into.resets, into.wrong = felt.resets, felt.wrong
        into.dropped = felt.retransmits + felt.lost
        return into

    def gaps_ms(self, rounds: int) -> list[float]:
        """The longest wait of a client that never stops asking while the pod falls asleep.

        Its own next packet wakes the pod, so this is the freeze, what is left to do before a wake
        is possible, and the wake.
        """
        longest = []
        for _ in range(rounds):
            with self.running.client() as client:
                client.start(TRAFFIC_PERIOD_MS)
                self.sleep()
                self.settle()
                client.stop()
                longest.append(client.report().longest_ms)
        return longest

    def cgroups(self, controller: str) -> list[Path]:
        """The cgroups of the pod and its container, as the host can open them; v1 or v2."""
        root = self.node.path(self.node.cgroup_root)
        base = root / controller if (root / controller).is_dir() else root
        pod = base / self.running.pod.spec.cgroup.lstrip("/")
        return [pod, pod / self.container_id]

    def limit_cpu(self) -> None:
        """100 millicores for the container, as kubelet would have set them."""
        for cgroup in self.cgroups("cpu"):
            if (cgroup / "cpu.max").exists():
                (cgroup / "cpu.max").write_text(f"{QUOTA_100M_US} {PERIOD_US}")
            else:
                (cgroup / "cpu.cfs_period_us").write_text(str(PERIOD_US))
                (cgroup / "cpu.cfs_quota_us").write_text(str(QUOTA_100M_US))

    def resident_bytes(self) -> int:
        """Anonymous memory that is charged to the container."""
        stat = (self.cgroups("memory")[1] / "memory.stat").read_text()
        figures = dict(line.split() for line in stat.splitlines())
        return int(figures.get("rss") or figures["anon"])

    def _fill(self, want_bytes: int) -> None:
        count = max(0, want_bytes - self.empty_bytes) // VALUE_BYTES
        argv = ["redis-cli", "EVAL", FILL, "0", str(count)]
        self.kubelet.exec(self.running.pod, argv, timeout_s=120)

    def _state(self) -> str:
        pods = self.stub.Pods(pb.PodsRequest(), timeout=CALL_DEADLINE_S).pods
        return str(next(one.state for one in pods if one.uid == self.running.pod.spec.uid))

    def _images(self) -> list[Path]:
        places = ["/run/podferry/images", "/var/lib/podferry/images"]
        return [one for place in places for one in self.node.path(place).glob("*")]


def pids(node: Node, name: str) -> list[int]:
    """The processes of the node with that name, as the node counts."""
    return [int(one) for one in node.exec(["pgrep", "-x", name[:15]], check=False).text.split()]
