# SPDX-License-Identifier: Apache-2.0
"""The peers: the same redis moved by CRIU alone, stop-and-copy or by its lazy-pages daemon.

The process runs in a network namespace with an address of its own on each of two nodes. Images go
over the nodes' wire by tar and netcat. Nothing is prepared for CRIU that it does not do by itself,
but that the route follows at once.
"""

from __future__ import annotations

import subprocess
import threading
from dataclasses import dataclass
from typing import Literal

from tests.testbed.errors import NodeFailed
from tests.testbed.node import Node

Way = Literal["stop-and-copy", "lazy-pages"]

ADDRESS = "10.99.0.2"
PORT = 6379
COPY_PORT = 7801
LAZY_PORT = 7802
PLACE = "/run/podferry-plain"
DEADLINE_S = 120.0

SET_UP = f"""set -e
ip netns add plain
ip link add plain0 type veth peer name plain1 netns plain
ip addr add 169.254.7.1/32 dev plain0
ip link set plain0 up
ip -n plain link set lo up
ip -n plain addr add {ADDRESS}/32 dev plain1
ip -n plain link set plain1 up
ip -n plain route add 169.254.7.1 dev plain1
ip -n plain route add default via 169.254.7.1 dev plain1
mkdir -p {PLACE}
"""

TAKE_DOWN = f"""
for pid in $(ip netns pids plain) $(pgrep -x criu); do kill -KILL $pid; done
ip netns del plain
ip link del plain0
ip route del {ADDRESS}/32
rm -rf {PLACE}
true
"""

INSIDE = "nsenter --net=/run/netns/plain"

# Its page server must be reached while it locks the namespace of its tasks, so it stays outside.
LEFT = "--external net[$(stat -Lc %i /run/netns/plain)]:plain"
TAKEN = "--inherit-fd fd[9]:plain 9</run/netns/plain"

# On the node that is left: PID OTHER. The route follows once the images are there. CRIU refuses to
# dump while somebody is about to connect, unless it may forget them.
LEAVE = {
    "stop-and-copy": f"""set -e
cd {PLACE}; rm -rf out; mkdir out
{INSIDE} criu dump -t $1 -D out -o dump.log -v1 --tcp-established --skip-in-flight
tar -C out -c . | nc -N $2 {COPY_PORT}
ip route replace {ADDRESS}/32 via $2
""",
    "lazy-pages": f"""set -e
cd {PLACE}; rm -rf out; mkdir out
criu dump -t $1 -D out -o dump.log -v1 --tcp-established --skip-in-flight {LEFT} --lazy-pages \\
    --address 0.0.0.0 --port {LAZY_PORT} &
until grep -q ':{LAZY_PORT:04X} 00000000:0000 0A' /proc/net/tcp; do sleep 0.002; done
tar -C out -c . | nc -N $2 {COPY_PORT}
ip route replace {ADDRESS}/32 via $2
wait
""",
}

# On the node that is reached: OTHER.
ARRIVE = {
    "stop-and-copy": f"""set -e
cd {PLACE}; rm -rf in; mkdir in
timeout 60 nc -l {COPY_PORT} | tar -C in -x
ip route replace {ADDRESS}/32 dev plain0
{INSIDE} criu restore -D in -o restore.log -v1 --tcp-established -d
""",
    "lazy-pages": f"""set -e
cd {PLACE}; rm -rf in; mkdir in
timeout 60 nc -l {COPY_PORT} | tar -C in -x
ip route replace {ADDRESS}/32 dev plain0
criu lazy-pages -D in -o lazy.log -v1 --page-server --address $1 --port {LAZY_PORT} -d
criu restore -D in -o restore.log -v1 --tcp-established {TAKEN} --lazy-pages -d
while pgrep -x criu >/dev/null; do sleep 0.02; done
""",
}


@dataclass
class Plain:
    """A redis that CRIU alone moves.

    Attributes:
        here: the node that it is on.
        there: the other one.
        client: from which it is used.
    """

    here: Node
    there: Node
    client: Node

    def start(self, values: int, fill: str) -> None:
        """Starts it and fills it.

        Args:
            values: how many values.
            fill: the script that makes them (EVAL, with their number).
        """
        for node in (self.here, self.there):
            node.exec(["sh", "-c", SET_UP])
        self.here.exec(["ip", "route", "replace", f"{ADDRESS}/32", "dev", "plain0"])
        self.client.exec(["ip", "route", "replace", f"{ADDRESS}/32", "via", self.here.address])
        # A pid that nobody has on the other node.
        start = (
            f"echo 40000 > /proc/sys/kernel/ns_last_pid; cd /; {INSIDE} setsid"
            f" redis-server --save '' --protected-mode no --port {PORT} --bind 0.0.0.0"
            " </dev/null >/dev/null 2>&1 &"
        )
        self.here.exec(["sh", "-c", start])
        ask = f"for i in $(seq 100); do {INSIDE} redis-cli ping && exit; sleep 0.1; done; exit 1"
        self.here.exec(["sh", "-c", ask])
        cli = ["sh", "-c", f'{INSIDE} redis-cli eval "$1" 0 $2', "sh", fill, str(values)]
        self.here.exec(cli, deadline_s=DEADLINE_S)

    def move(self, way: Way) -> None:
        """Moves it to the other node.

        Raises:
            NodeFailed: CRIU's words.
        """
        pid = self.here.exec(["pgrep", "-x", "redis-server"]).text.split()
        mine = [one for one in pid if self._is_ours(one)]
        arrive = threading.Thread(target=self._arrive, args=[way])
        arrive.start()
        try:
            argv = ["sh", "-c", LEAVE[way], "sh", mine[0], self.there.address]
            self.here.exec(argv, deadline_s=DEADLINE_S)
        finally:
            arrive.join(DEADLINE_S)
        if self._failed:
            raise NodeFailed(f"{way}: {self._failed}", where=self.there.name)
        self.client.exec(["ip", "route", "replace", f"{ADDRESS}/32", "via", self.there.address])
        self.here, self.there = self.there, self.here

    def _arrive(self, way: Way) -> None:
        self._failed = ""
        try:
            argv = ["sh", "-c", ARRIVE[way], "sh", self.here.address]
            self.there.exec(argv, deadline_s=DEADLINE_S)
        except (NodeFailed, subprocess.SubprocessError) as error:
            log = self.there.exec(["tail", "-n", "5", f"{PLACE}/in/restore.log"], check=False)
            self._failed = f"{error} {log.text}"

    def _is_ours(self, pid: str) -> bool:
        netns = self.here.path(f"/proc/{pid}/ns/net").readlink()
        wanted = self.here.exec(["stat", "-Lc", "net:[%i]", "/run/netns/plain"]).text.strip()
        return str(netns) == wanted

    def stop(self) -> None:
        """Ends it; nothing is left."""
        for node in (self.here, self.there):
            node.exec(["sh", "-c", TAKE_DOWN], check=False)
        self.client.exec(["ip", "route", "del", f"{ADDRESS}/32"], check=False)
