# SPDX-License-Identifier: Apache-2.0
"""Install, crash, reload and uninstall on a node that systemd booted, with its real containerd."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from shim.installer import content, manifest
from tests.testbed import service
from tests.testbed.cri import CriClient
from tests.testbed.kubelet import Kubelet
from tests.testbed.node import Node
from tests.testbed.pods import ContainerSpec, PodSpec

PIPE = "/proc/sys/fs/pipe-max-size"
CONTAINERD = "unix:///run/containerd/containerd.sock"
OURS = f"unix://{service.SOCKET}"
KUBELET_CONFIG = "/var/lib/kubelet/config.yaml"
CONFIG_TEXT = f"""\
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
# set by hand
containerRuntimeEndpoint: {CONTAINERD}
maxPods: 110
"""
KUBELET_UNIT = """\
[Unit]
Description=kubelet

[Service]
ExecStart=/usr/local/bin/kubelet --config=/var/lib/kubelet/config.yaml
Restart=always

[Install]
WantedBy=multi-user.target
"""
# Does of kubelet's work what matters here: reads its endpoint at its start, and says whether a
# socket is there then.
KUBELET_LOG = "/var/log/kubelet-starts"
KUBELET_SCRIPT = f"""\
#!/bin/sh
socket=$(sed -n 's|^containerRuntimeEndpoint: .*unix://\\([^"]*\\)"\\?$|\\1|p' {KUBELET_CONFIG})
if [ -S "$socket" ]; then state=present; else state=missing; fi
echo "$socket $state" >>{KUBELET_LOG}
exec sleep infinity
"""
CALLERS = 8
BACK_DEADLINE_S = 30.0
SLEEP = ("sleep", "86400")


@pytest.fixture
def prepared(systemd_node: Node) -> Iterator[Node]:
    """The node with podferry on its disk, not installed, and a kubelet that runs."""
    node = systemd_node
    service.install(node)
    node.write(KUBELET_CONFIG, CONFIG_TEXT, 0o640)
    node.write("/usr/local/bin/kubelet", KUBELET_SCRIPT, 0o755)
    node.write("/etc/systemd/system/kubelet.service", KUBELET_UNIT)
    node.exec(["systemctl", "daemon-reload"])
    node.exec(["systemctl", "enable", "--now", "kubelet"])
    kubelet_starts(node, 1)
    former = Path(PIPE).read_text()  # one value for the machine, not for the node
    try:
        yield node
    finally:
        Path(PIPE).write_text(former)


def install(node: Node, *more: str) -> dict[str, object]:
    """Runs podferry install on the node; returns what it says."""
    done = node.exec([service.PODFERRY, "install", "--output", "json", *more])
    said: dict[str, object] = json.loads(done.stdout)
    return said


def files_of(node: Node) -> dict[str, tuple[object, ...]]:
    """Every file that install could touch, with its marks."""
    found: dict[str, tuple[object, ...]] = {}
    for top in ("/etc", "/var/lib/kubelet", "/usr/lib/systemd", "/usr/local/bin"):
        base = node.path(top)
        for path in base.rglob("*"):
            status = path.lstat()
            body: object = None
            if path.is_symlink():
                body = str(path.readlink())
            elif path.is_file():
                body = (path.read_bytes(), status.st_mtime_ns)
            name = f"{top}/{path.relative_to(base)}"
            found[name] = (status.st_mode, status.st_uid, status.st_gid, body)
    return found


def kubelet_starts(node: Node, at_least: int) -> list[str]:
    """What kubelet's stand-in has said at its starts, once it has said it so many times.

    systemd calls the unit started as soon as the shell runs, a moment before it writes.
    """
    deadline = time.monotonic() + BACK_DEADLINE_S
    while True:
        said = node.read(KUBELET_LOG).decode() if node.path(KUBELET_LOG).exists() else ""
        if said.count("\n") >= at_least or time.monotonic() > deadline:
            return said.splitlines()
        time.sleep(0.05)


def main_pid(node: Node, unit: str = content.UNIT_NAME) -> int:
    """The main process of a unit, as the node counts."""
    return int(node.exec(["systemctl", "show", "--value", "-p", "MainPID", unit]).text)


def wait_answer(node: Node) -> float:
    """Seconds until the socket answers again."""
    began = time.monotonic()
    while time.monotonic() - began < BACK_DEADLINE_S:
        with CriClient(node.path(service.SOCKET)) as client:
            try:
                client.version(deadline_s=1.0)
                return time.monotonic() - began
            except grpc.RpcError:
                time.sleep(0.02)
    pytest.fail(node.exec(["journalctl", "-u", content.UNIT_NAME, "--no-pager"]).text)


class Callers:
    """Threads that call Version without pause and note every failure."""

    def __init__(self, socket: Path) -> None:
        self.done = 0
        self.failures: list[str] = []
        self._socket = socket
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._call) for _ in range(CALLERS)]

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _call(self) -> None:
        with CriClient(self._socket) as client:
            while not self._stop.is_set():
                try:
                    client.version(deadline_s=30.0)
                    self.done += 1
                except grpc.RpcError as error:
                    self.failures.append(str(error))
                time.sleep(0.02)  # the load is not what is tried


def test_install_serve_crash_reload_uninstall(prepared: Node) -> None:
    node = prepared
    with Kubelet(node) as direct:
        pod = direct.run_pod(PodSpec("early", (ContainerSpec("main", command=SLEEP),)))
        before = files_of(node)

        # Installed: kubelet was restarted onto a socket that was there.
        assert install(node, "--restart-kubelet")["changed"] is True
        assert kubelet_starts(node, 2) == [
            "/run/containerd/containerd.sock present",
            f"{service.SOCKET} present",
        ]
        assert node.exec(["systemctl", "is-enabled", content.UNIT_NAME]).text == "enabled"
        again = install(node, "--restart-kubelet")
        assert (again["changed"], again["steps"]) == (False, [])

        # Killed: systemd brings it back, the pod lives on, kubelet is not touched.
        kubelet_pid = main_pid(node, "kubelet")
        killed = main_pid(node)
        node.exec(["kill", "-9", str(killed)])
        print(f"answered again {wait_answer(node):.3f} s after kill -9")
        assert main_pid(node) not in (0, killed)

        # Reloaded under load: another process, no call lost.
        old = main_pid(node)
        with Callers(node.path(service.SOCKET)) as callers:
            node.exec(["systemctl", "reload", content.UNIT_NAME])
            assert main_pid(node) not in (0, old)
            enough = callers.done + 10 * CALLERS
            deadline = time.monotonic() + BACK_DEADLINE_S
            while callers.done < enough and time.monotonic() < deadline:
                time.sleep(0.05)
        assert callers.failures == []
        assert callers.done >= enough
        assert node.exec(["systemctl", "is-active", content.UNIT_NAME]).text == "active"
        assert main_pid(node, "kubelet") == kubelet_pid

        # Uninstalled: not while kubelet uses the socket, then to the last byte.
        waits = node.exec([service.PODFERRY, "uninstall"], check=False)
        assert (waits.status, "systemctl restart kubelet" in waits.text) == (3, True)
        assert node.exec(["systemctl", "is-active", content.UNIT_NAME]).text == "active"
        node.exec([service.PODFERRY, "uninstall", "--restart-kubelet"])
        assert files_of(node) == before
        assert kubelet_starts(node, 3)[2:] == ["/run/containerd/containerd.sock present"]
        assert not node.path(content.INSTALL_DIR).exists()
        assert not node.path("/run/podferry").exists()
        loaded = node.exec(["systemctl", "show", "--value", "-p", "LoadState", content.UNIT_NAME])
        assert loaded.text == "not-found"
        assert direct.exec(pod, ["echo", "yes"]).stdout == b"yes\n"


def test_after_a_power_cut_kubelet_finds_our_socket(prepared: Node) -> None:
    node = prepared
    install(node, "--restart-kubelet")
    node.write(KUBELET_LOG, "")
    node.reset()
    wait_answer(node)
    # The order of the units alone makes it so: Before=kubelet.service and Type=notify.
    assert kubelet_starts(node, 1)[:1] == [f"{service.SOCKET} present"]


def test_a_service_that_cannot_start_leaves_kubelet_on_containerd(prepared: Node) -> None:
    node = prepared
    node.exec(["systemctl", "stop", "containerd"])
    node.exec(["systemctl", "mask", "--runtime", "containerd"])
    failed = node.exec([service.PODFERRY, "install", "--restart-kubelet"], check=False)
    assert failed.status == 1, failed.text
    assert node.read(KUBELET_CONFIG).decode() == CONFIG_TEXT
    assert node.path(manifest.PATH).exists(), "install can go on or be undone"
    node.exec(["systemctl", "unmask", "--runtime", "containerd"])
    node.containerd.start()
    install(node, "--restart-kubelet")
    assert OURS in node.read(KUBELET_CONFIG).decode()


def test_containerd_runs_the_oci_runtime_of_the_drop_in(prepared: Node) -> None:
    node = prepared
    binary, log = "/usr/local/bin/oci-runtime", "/var/log/oci-calls"
    node.write(binary, f'#!/bin/sh\necho "$*" >>{log}\nexec runc "$@"\n', 0o755)
    options = ["--containerd-runtime", binary]
    pending = install(node, *options)["pending"]
    assert pending == ["systemctl restart containerd.service", "systemctl restart kubelet.service"]
    node.containerd.restart()
    wait_answer(node)  # podferry may take a second to reach it again
    with Kubelet(node, service.SOCKET) as kubelet:
        pod = kubelet.run_pod(PodSpec("front", (ContainerSpec("main", command=SLEEP),)))
        assert pod.container_id in node.read(log).decode()
