# SPDX-License-Identifier: Apache-2.0
"""Owns one node: a container of the node image with its volume, cgroups and containerd."""

from __future__ import annotations

import contextlib
import functools
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import docker
from docker.errors import NotFound
from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network

from tests.testbed import containerd, network, run
from tests.testbed.errors import NodeFailed
from tests.testbed.process import POLL_S, Boot, Daemon, Namespaces, Result

INIT = "/usr/local/lib/podferry-testbed/node-init"
SYSTEMD_UP = ("running", "degraded")
CAP_SYS_RESOURCE = 24
BOOT_DEADLINE_S = 60.0


def may_raise_limits() -> bool:
    """Whether this machine gives CAP_SYS_RESOURCE away; many virtual machines in CI do not."""
    status = Path("/proc/self/status").read_text()
    bounding = next(line for line in status.splitlines() if line.startswith("CapBnd:"))
    return bool(int(bounding.split()[1], 16) >> CAP_SYS_RESOURCE & 1)


class Node:
    """One node; a context manager that leaves nothing behind.

    Args:
        client: the engine.
        image: the node image's tag.
        wire: the network that joins the nodes.
        index: its number in this testbed; decides its pods' subnet.
        boot: "plain" starts containerd by hand, "systemd" as its service.
    """

    def __init__(
        self,
        client: docker.DockerClient,
        image: str,
        wire: Network,
        index: int,
        boot: Boot = "plain",
    ) -> None:
        self.client = client
        self.image = image
        self.wire = wire
        self.index = index
        self.boot = boot
        self.name = f"pf-{run.short()}-{wire.name[-6:]}-{index}"
        self.pod_subnet = network.pod_subnet(index)
        self.daemons: list[Daemon] = []
        self._routes: list[Node] = []
        self._volume = f"{self.name}-var"
        self._container = self._describe(image)
        self._inside: Namespaces | None = None
        self._containerd: containerd.Containerd | None = None

    # ---- life

    def start(self) -> Self:
        """Boots it and starts containerd with the test images.

        Raises:
            NodeFailed: it does not come up; carries its log. Nothing is left behind.
        """
        try:
            self.client.volumes.create(self._volume, labels=run.labels())
            self._container.start()
            self._inside = Namespaces(self._wait_booted(), self.name)
            self._containerd = containerd.Containerd(self.inside, self.boot)
            if self.boot == "systemd":
                self._wait_systemd()
            self._configure()
            self._containerd.start()
            self._containerd.import_images()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Removes the container with all its processes, then its volume and its cgroups."""
        run.thaw_cgroups(self.name)
        with contextlib.suppress(NotFound):
            run.patiently(functools.partial(self._container.stop, force=True))
        with contextlib.suppress(NotFound):
            self.client.volumes.get(self._volume).remove(force=True)
        run.remove_cgroups(self.name)

    def reset(self) -> None:
        """Pulls the plug and boots again: processes, /run and routes go, disks stay.

        podferry is not started; what ``daemon`` made is dead; sockets must be dialled anew.
        """
        wrapped = self._container.get_wrapped_container()
        run.thaw_cgroups(self.name)
        wrapped.kill()
        wrapped.wait()
        run.remove_cgroups(self.name)
        wrapped.start()
        self.inside.pid = self._wait_booted()
        for daemon in [*self.daemons, self.containerd.daemon]:
            daemon.forget()
        if self.boot == "systemd":
            self._wait_systemd()
        self.containerd.start()
        for other in self._routes:
            self.route(other)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    # ---- what it is made of

    @property
    def inside(self) -> Namespaces:
        """Its namespaces.

        Raises:
            NodeFailed: it has not been started.
        """
        if self._inside is None:
            raise NodeFailed("the node has not been started", where=self.name)
        return self._inside

    @property
    def containerd(self) -> containerd.Containerd:
        """Its containerd.

        Raises:
            NodeFailed: it has not been started.
        """
        if self._containerd is None:
            raise NodeFailed("the node has not been started", where=self.name)
        return self._containerd

    @property
    def cgroup_root(self) -> str:
        """Where the node sees the hierarchies that containers live in."""
        tree = "/run/testbed/cgroup"
        return tree if self.path(tree).exists() else "/sys/fs/cgroup"

    @property
    def address(self) -> str:
        """Its address on the wire."""
        wrapped = self._container.get_wrapped_container()
        wrapped.reload()
        return str(wrapped.attrs["NetworkSettings"]["Networks"][self.wire.name]["IPAddress"])

    # ---- what one does with it

    def exec(
        self,
        argv: list[str],
        *,
        stdin: bytes = b"",
        env: dict[str, str] | None = None,
        deadline_s: float = 120.0,
        check: bool = True,
    ) -> Result:
        """Runs a command on the node; see ``Namespaces.run``."""
        return self.inside.run(argv, stdin=stdin, env=env, deadline_s=deadline_s, check=check)

    def daemon(self, name: str, argv: list[str], env: dict[str, str] | None = None) -> Daemon:
        """A long-lived process of the node, not yet started; its log is part of ``logs``."""
        made = Daemon(self.inside, name, argv, env)
        self.daemons.append(made)
        return made

    def path(self, inside: str) -> Path:
        """A path of the node as the host can open and dial it."""
        return self.inside.path(inside)

    def write(self, inside: str, content: str | bytes, mode: int = 0o644) -> None:
        """Writes a file of the node; makes its directory."""
        path = self.path(inside)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        path.chmod(mode)

    def read(self, inside: str) -> bytes:
        """Reads a file of the node."""
        return self.path(inside).read_bytes()

    def route(self, other: Node) -> None:
        """Sends what is for the other node's pods to the other node."""
        if other not in self._routes:
            self._routes.append(other)
        self.exec(["ip", "route", "replace", other.pod_subnet, "via", other.address])

    def logs(self) -> dict[str, str]:
        """The end of every log, by name."""
        tails = {"container": self._container_log()}
        if self._containerd is not None:
            tails["containerd"] = self._containerd.daemon.log_tail()
        return tails | {daemon.name: daemon.log_tail() for daemon in self.daemons}

    # ---- how it boots

    def _describe(self, image: str) -> DockerContainer:
        container = DockerContainer(image, network=self.wire).with_name(self.name)
        container.with_command([self.name, self.boot])
        container.with_volume_mapping("/sys/fs/cgroup", "/mnt/host-cgroup", "rw")
        container.with_volume_mapping(self._volume, "/var/lib/node", "rw")
        # The engine's own default for a tmpfs is noexec, nodev, nosuid.
        container.with_tmpfs_mount("/run", "rw,exec,dev,suid,mode=755")
        return container.with_kwargs(
            entrypoint=[INIT],
            hostname=self.name,
            labels=run.labels(),
            cap_add=["ALL"],
            # --privileged would ask for every capability, also those that cannot be had.
            cap_drop=[] if may_raise_limits() else ["SYS_RESOURCE"],
            security_opt=["seccomp=unconfined", "apparmor=unconfined"],
            device_cgroup_rules=["a *:* rwm"],
            cgroupns="private",
            shm_size="256m",
            sysctls={"net.ipv4.ip_forward": "1"},
        )

    def _wait_booted(self) -> int:
        wrapped = self._container.get_wrapped_container()
        deadline = time.monotonic() + BOOT_DEADLINE_S
        while time.monotonic() < deadline:
            wrapped.reload()
            state = wrapped.attrs["State"]
            if not state["Running"]:
                break
            if Path(f"/proc/{state['Pid']}/root/run/testbed/ready").exists():
                return int(state["Pid"])
            time.sleep(POLL_S)
        raise NodeFailed(f"the node does not boot: {self._container_log()}", where=self.name)

    def _wait_systemd(self) -> None:
        deadline = time.monotonic() + BOOT_DEADLINE_S
        state = ""
        while time.monotonic() < deadline:
            state = self.exec(["systemctl", "is-system-running"], check=False).text
            if state in SYSTEMD_UP:
                return
            time.sleep(POLL_S)
        jobs = self.exec(["systemctl", "list-jobs", "--no-pager"], check=False).text
        raise NodeFailed(f"systemd is {state!r} and waits for: {jobs}", where=self.name)

    def _configure(self) -> None:
        restrict = not may_raise_limits()
        self.write(containerd.CONFIG, containerd.config(restrict_oom_score_adj=restrict))
        self.write(network.CNI_CONFIG, network.cni_config(self.pod_subnet))
        if self.boot == "systemd" and self.path("/run/testbed/cgroup").exists():
            self.write(containerd.DROP_IN, containerd.DROP_IN_TEXT)
            self.exec(["systemctl", "daemon-reload"])

    def _container_log(self) -> str:
        try:
            wrapped = self._container.get_wrapped_container()
            return bytes(wrapped.logs(tail=50)).decode("utf-8", "replace")
        except Exception as error:  # a log must not hide the failure that it was wanted for
            return f"no log: {error}"
