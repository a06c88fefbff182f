# SPDX-License-Identifier: Apache-2.0
"""A target that fails in one of many ways: the move is refused and told, the pod runs on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from cri_proto import runtime_v1_pb2 as pb
from tests.e2e.stops import Move, arm
from tests.testbed import images
from tests.testbed.cri import IMAGE
from tests.testbed.moving import PAGES_PORT, MovingNode, eventually
from tests.testbed.process import Result
from tests.workloads import start
from tests.workloads.start import REDIS

Pair = tuple[MovingNode, MovingNode]
Act = Callable[[MovingNode], object]

STORES = "/run/podferry/stores"
CRIU = "/usr/sbin/criu"
PAGER = "$(ls /opt/podferry/lib/python3*/site-packages/shim/bin/podferry-pager)"
BRIDGE = "/usr/lib/cni/bridge"  # where Debian's containerd looks for plugins
# Of whatever container there is: the target has no other pod than the one that comes.
ROOTFS = "/run/containerd/io.containerd.runtime.v2.task/k8s.io/*/rootfs"
SENT = "source sent"  # the replacement is claimed, all is in its store, nothing is restored yet


def shell(text: str) -> Act:
    """Runs a script on the target; it must succeed."""
    return lambda node: node.node.exec(["sh", "-ec", text])


def over(path: str, content: str) -> Act:
    """Puts a program of ours over one of the target's, until `bare`; the real one is $real."""
    script = (
        f"name=$(basename {path}); real=/run/broken/$name.real; mine=/run/broken/$name\n"
        f"mkdir -p /run/broken; cp -L --preserve=mode {path} $real\n"
        'sed "s,@real@,$real,g" > $mine; chmod 755 $mine\n'
        f"mount --bind $mine {path}"
    )
    return lambda node: node.node.exec(["sh", "-ec", script], stdin=content.encode())


def bare(path: str) -> Act:
    """Takes away what was put over a file."""
    return shell(f"umount {path}; rm -rf /run/broken")


def in_proc(name: str, edit: str) -> Act:
    """Has a file of /proc say something else on the target, until `bare`."""
    made = f"/run/broken/{name}"
    return shell(
        f"mkdir -p /run/broken; sed -E '{edit}' /proc/{name} > {made}; "
        f"mount --bind {made} /proc/{name}"
    )


def nothing(node: MovingNode) -> None:
    """What was broken went with the replacement."""


def no_criu_any_more(node: MovingNode) -> None:
    """CRIU ends in the middle, and so does whatever is started in its place."""
    node.node.exec(["mount", "--bind", "/bin/false", CRIU])
    node.node.exec(["pkill", "-KILL", "-x", "criu"])


def forget_image(node: MovingNode) -> None:
    """The image is not there, and nobody has it."""
    request = pb.RemoveImageRequest(image=pb.ImageSpec(image=images.REDIS))
    node.kubelet.cri.call("RemoveImage", request, pb.RemoveImageResponse, service=IMAGE)


def remove_sandboxes(node: MovingNode) -> None:
    """Somebody removes the replacement."""
    for sandbox in node.kubelet.cri.list_pod_sandbox():
        node.remove_sandbox(sandbox.id)


def start_containerd(node: MovingNode) -> None:
    """It answers again, also by way of podferry."""
    node.node.containerd.start()
    node.shim.wait_ready()


# As a network without a free address; what it takes away again, it still can.
NO_ADDRESS = """#!/bin/sh
[ "$CNI_COMMAND" = ADD ] || exec @real@ "$@"
echo '{"cniVersion": "1.0.0", "code": 100, "msg": "no address is left"}'
exit 1
"""
OLD_CRIU = """#!/bin/sh
[ "$1" = --version ] || exec @real@ "$@"
echo 'Version: 3.17'
"""


@dataclass(frozen=True)
class Failure:
    """One way in which the target fails.

    Attributes:
        breaks: what makes it.
        mends: what ends it.
        words: part of what must be told, as it is the reason; "" where several are right.
        at: the source's line at which it happens; "" is before the move.
    """

    breaks: Act
    mends: Act = nothing
    words: str = ""
    at: str = ""


FAILURES = {
    # Refused before anything is touched.
    "CRIU is not there": Failure(
        shell(f"mount --bind /bin/false {CRIU}"), shell(f"umount {CRIU}"), "CRIU is absent"
    ),
    "CRIU is too old": Failure(over(CRIU, OLD_CRIU), bare(CRIU), "CRIU is 3.17"),
    "it has no memory free": Failure(
        in_proc("meminfo", "s/^(MemAvailable:) .*/\\1 1024 kB/"), bare("/proc/meminfo"), "MiB free"
    ),
    "its processor lacks a feature": Failure(
        in_proc("cpuinfo", "s/ (sse2|asimd) / /"), bare("/proc/cpuinfo"), "its processor lacks"
    ),
    # While the replacement is prepared.
    "the image is not there": Failure(
        forget_image, lambda node: node.node.containerd.import_images(), "cannot be pulled"
    ),
    "the network has no address": Failure(over(BRIDGE, NO_ADDRESS), bare(BRIDGE), "no address"),
    "containerd does not answer": Failure(
        lambda node: node.node.containerd.daemon.stop(),
        start_containerd,
        at="source after copying",
    ),
    "holds cannot be pinned": Failure(
        shell(
            "mountpoint -q /sys/fs/bpf || mount -t bpf bpf /sys/fs/bpf\n"
            "mount --bind /sys/fs/bpf /sys/fs/bpf; mount -o remount,bind,ro /sys/fs/bpf"
        ),
        shell("umount /sys/fs/bpf"),
    ),
    "the stores are read-only": Failure(
        shell(f"mkdir -p {STORES}; mount -t tmpfs -o ro none {STORES}"),
        shell(f"umount -l {STORES}"),
    ),
    # While memory comes.
    "its port of pages is closed": Failure(
        shell(f"iptables -I INPUT -p tcp --dport {PAGES_PORT} -j REJECT --reject-with tcp-reset"),
        shell(f"iptables -D INPUT -p tcp --dport {PAGES_PORT} -j REJECT --reject-with tcp-reset"),
    ),
    "the store has no room": Failure(
        shell(f"mkdir -p {STORES}; mount -t tmpfs -o size=1m none {STORES}"),
        shell(f"umount -l {STORES}"),
    ),
    # In the freeze.
    "the pager is not there": Failure(
        shell(f"mount --bind /bin/false {PAGER}"), shell(f"umount {PAGER}")
    ),
    "CRIU ends in the middle": Failure(no_criu_any_more, shell(f"umount {CRIU}"), at=SENT),
    "an image is damaged": Failure(
        # The first bytes say what kind of image it is.
        shell(
            f"for one in {STORES}/*/images/core-*.img; do "
            'dd if=/dev/zero of="$one" bs=8 count=1 conv=notrunc status=none; done'
        ),
        at=SENT,
    ),
    "a file that it has open is missing": Failure(
        shell(f"rm $(find {ROOTFS} -xdev -name redis-server -type f)"), at=SENT
    ),
    "a file that it has open was changed": Failure(
        shell(f"echo >> $(find {ROOTFS} -xdev -name redis-server -type f)"), at=SENT
    ),
    "the claimed container is killed": Failure(
        shell("kill -KILL $(cat /run/podferry/monitors/k8s.io/*/init.pid)"), at=SENT
    ),
    "its monitor is killed": Failure(
        shell("kill -KILL $(cat /run/podferry/monitors/k8s.io/*/pid)"), at=SENT
    ),
    "the replacement is removed": Failure(remove_sandboxes, at=SENT),
}


def moved(first: MovingNode, second: MovingNode, sandbox_id: str, failure: Failure) -> Result:
    """Tries the move while the target fails; what the command gave."""
    if not failure.at:
        failure.breaks(second)
        return first.command("migrate", sandbox_id, "--to", second.name, check=False)
    with Move(first, sandbox_id, second) as move:
        move.wait_stopped()
        failure.breaks(second)
        move.go_on()
        return move.ended()


def is_empty(node: MovingNode) -> bool:
    """Whether nothing of the pod is at the target."""
    return not (
        node.processes("redis-server")
        or any(one["state"] == "running" for one in node.pods())
        or node.kubelet.cri.list_pod_sandbox()
        or node.left()
    )


@pytest.mark.parametrize("how", list(FAILURES))
def test_a_target_that_fails_leaves_the_pod_running(pair: Pair, how: str) -> None:
    first, second = pair
    failure = FAILURES[how]
    if failure.at:
        arm(first, failure.at)
    running = start.start(first.kubelet, REDIS)
    with running.client() as client:
        client.ask(3)
        client.start(5)
        try:
            result = moved(first, second, running.pod.sandbox_id, failure)
        finally:
            failure.mends(second)
        client.stop()
        told = result.stderr.decode()
        assert result.status == 1, result.text
        assert told.startswith("podferry:") and failure.words in told, told
        client.ask(3)
        assert len(first.processes("redis-server")) == 1
        eventually(lambda: is_empty(second), first, second)
        # It is the target that has failed, and it does no more.
        first.migrate(running.pod, second)
        client.ask(3)
        felt = client.finish()
        assert felt.is_well, felt
    assert first.processes("redis-server") == []
    assert len(second.processes("redis-server")) == 1
