# SPDX-License-Identifier: Apache-2.0
"""Pods of several containers that talk to each other: they sleep and wake as one."""

from __future__ import annotations

from tests.node.test_sleep import Sleepers, front_node, settings, sleepers
from tests.testbed import images
from tests.testbed.kubelet import Pod
from tests.testbed.pods import ContainerSpec, PodSpec

__all__ = ["front_node", "settings", "sleepers"]

ROUNDS = 6
# One connection over loopback for all its life; whatever goes wrong with it is written down.
TALKER = """
import os, socket, time
until = time.monotonic() + 20
while True:
    try:
        line = socket.create_connection(("127.0.0.1", 6379), timeout=20)
        break
    except ConnectionRefusedError:
        assert time.monotonic() < until
        time.sleep(0.02)
count, said = 0, "ok"
while said == "ok":
    count += 1
    try:
        line.sendall(b"INCR talked\\r\\n")
        answer = line.recv(100)
        if answer != b":%d\\r\\n" % count:
            said = repr(answer)
    except OSError as error:
        said = repr(error)
    with open("/tmp/said.new", "w") as file:
        file.write(f"{count} {said}")
    os.replace("/tmp/said.new", "/tmp/said")
time.sleep(86400)
"""


def said(sleepers: Sleepers, pod: Pod) -> tuple[int, str]:
    """How often the talker has talked, and what went wrong."""
    done = sleepers.kubelet.exec(pod, ["cat", "/tmp/said"], "talker")
    count, _, word = done.stdout.decode().partition(" ")
    return int(count or 0), word


def test_a_conversation_over_loopback_goes_on(sleepers: Sleepers) -> None:
    talker = ContainerSpec("talker", images.PYTHON, ("python3", "-c", TALKER))
    spec = PodSpec("redis", (ContainerSpec("main", images.REDIS), talker))
    pod = sleepers.kubelet.run_pod(spec)
    sleepers.eventually(lambda: said(sleepers, pod)[0] > 10)
    before = 0
    for number in range(ROUNDS):
        sleepers.sleep(pod)
        assert sleepers.state(pod)["state"] == "asleep"
        if number % 2:
            assert sleepers.command("wake", "redis").status == 0
        else:
            assert sleepers.ask(pod, "PING") == "+PONG"
        sleepers.eventually(lambda: sleepers.state(pod)["state"] == "running")
        sleepers.eventually(lambda before=before: said(sleepers, pod)[0] > before + 10)
        before, word = said(sleepers, pod)
        assert word == "ok"
    assert said(sleepers, pod)[1] == "ok"
