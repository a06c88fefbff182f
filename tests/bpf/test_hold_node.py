# SPDX-License-Identifier: Apache-2.0
"""The hold on a real node: a pod behind the bridge of CNI, podferry as it is installed."""

from __future__ import annotations

import json

from tests.testbed import images, service
from tests.testbed.kubelet import Kubelet
from tests.testbed.pods import ContainerSpec, PodSpec

PYTHON = "/opt/podferry/bin/python"

# Holds a pod, asks its web server and releases; prints what it saw.
HOLD = """
import json, select, socket, struct, sys, threading, time
from ipaddress import ip_address
from pathlib import Path
from shim import _native_hold
from shim.errors import NativeError
from shim.network.hold import Hold

sandbox, address = sys.argv[1:]

def netns_of(address):
    for path in sorted(Path("/var/run/netns").iterdir()):
        try:
            _native_hold.find_device(path, ip_address(address))
            return path
        except NativeError:
            pass
    sys.exit("no namespace has the address")

answers = []

def ask():
    begun_s = time.monotonic()
    with socket.create_connection((address, 80), timeout=60) as client:
        info = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
        # A crowded machine may take longer than the SYN's own timer; the client then sends another.
        late = time.monotonic() - begun_s >= 1
        retransmissions = struct.unpack_from("=I", info, 100)[0]
        client.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
        answers.append(client.recv(1000).split()[1].decode())
        answers.append(late or retransmissions == 0)

hold = Hold.create(sandbox, netns_of(address), [ip_address(address)])
hold.arm()
client = threading.Thread(target=ask)
client.start()
poller = select.poll()
poller.register(hold.event_fd, select.POLLIN)
woken = bool(poller.poll(60000))
cause = hold.take_event().cause.name
held = not poller.poll(300) and not answers
hold.release()
client.join()
print(json.dumps([woken, cause, held, *answers]))
"""

REMOVE = """
from shim.network.hold import Hold
for hold in Hold.find_all():
    print(hold.hold_id, hold.is_complete)
    hold.remove()
"""


def test_a_request_waits_for_a_pod_behind_cni(kubelet: Kubelet) -> None:
    service.install(kubelet.node)
    pod = kubelet.run_pod(PodSpec("web", (ContainerSpec("main", images.NGINX),)))
    ask = f"for i in $(seq 100); do curl -s -o /dev/null http://{pod.ip}/ && exit; sleep 0.1; done"
    kubelet.node.exec(["sh", "-c", ask], check=False)
    seen = kubelet.node.exec([PYTHON, "-c", HOLD, pod.sandbox_id, pod.ip])
    assert json.loads(seen.stdout) == [True, "TCP_SYN", True, "200", True]
    found = kubelet.node.exec([PYTHON, "-c", REMOVE])
    assert found.stdout.decode().split() == [pod.sandbox_id, "True"]
    links = kubelet.node.exec(["ip", "-o", "link"]).stdout.decode()
    assert "pfh" not in links
    assert kubelet.node.exec([PYTHON, "-c", REMOVE]).stdout == b""
