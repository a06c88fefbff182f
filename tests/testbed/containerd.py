# SPDX-License-Identifier: Apache-2.0
"""Owns a node's containerd: its configuration, its life, and the images it is given."""

from __future__ import annotations

import time
from pathlib import Path

import grpc

from tests.testbed import images
from tests.testbed.cri import CriClient
from tests.testbed.errors import NodeFailed
from tests.testbed.process import POLL_S, Boot, Daemon, Namespaces
from tests.testbed.unit import Unit

SOCKET = "/run/containerd/containerd.sock"
CONFIG = "/etc/containerd/config.toml"
DROP_IN = "/etc/systemd/system/containerd.service.d/10-testbed.conf"
# See node-init-inner: systemd itself lives with v2 only, containers want the host's controllers.
DROP_IN_TEXT = """[Service]
BindPaths=/run/testbed/cgroup:/sys/fs/cgroup
MountFlags=shared
"""
ARCHIVE = "/usr/local/share/podferry-testbed/images/images.tar"
READY_DEADLINE_S = 60.0

# restrict_oom_score_adj: kubelet and containerd ask for -998 for each sandbox, which nobody may set
# without CAP_SYS_RESOURCE. plugin_request_timeout: 2 s, the default, is too short for a busy
# machine. root and state keep their defaults: /var/lib/containerd is on the node's volume.
TEMPLATE = """# Written by the testbed.
version = 3
imports = ["/etc/containerd/conf.d/*.toml"]

[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "{pause}"

[plugins."io.containerd.cri.v1.images".registry]
  config_path = "/etc/containerd/certs.d"

[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = {restrict_oom_score_adj}

[plugins."io.containerd.nri.v1.nri"]
  plugin_request_timeout = "10s"
{extra}"""


def config(*, restrict_oom_score_adj: bool, extra: str = "") -> str:
    """The text of config.toml."""
    return TEMPLATE.format(
        pause=images.PAUSE,
        restrict_oom_score_adj=str(restrict_oom_score_adj).lower(),
        extra=extra,
    )


class Containerd:
    """containerd on one node.

    Args:
        inside: the node.
        boot: how the node was booted.
    """

    def __init__(self, inside: Namespaces, boot: Boot) -> None:
        self.inside = inside
        self.daemon: Daemon | Unit
        if boot == "systemd":
            self.daemon = Unit(inside, "containerd.service")
        else:
            self.daemon = Daemon(inside, "containerd", ["/usr/bin/containerd"])

    @property
    def socket(self) -> Path:
        """Its CRI socket as the host can dial it."""
        return self.inside.path(SOCKET)

    def start(self) -> None:
        """Starts it and waits until CRI answers."""
        self.daemon.start()
        self.wait_ready()

    def wait_ready(self, deadline_s: float = READY_DEADLINE_S) -> None:
        """Waits until the runtime and its network say that they are ready.

        Raises:
            NodeFailed: they do not in time; carries the last answer and the end of the log.
        """
        deadline = time.monotonic() + deadline_s
        last = "no answer"
        with CriClient(self.socket) as client:
            while time.monotonic() < deadline:
                try:
                    conditions = client.status(deadline_s=5.0).status.conditions
                    missing = [one for one in conditions if not one.status]
                    if conditions and not missing:
                        return
                    last = "; ".join(f"{one.type}: {one.message}" for one in missing)
                except grpc.RpcError as error:
                    last = str(error.details() if isinstance(error, grpc.Call) else error)
                time.sleep(POLL_S)
        raise NodeFailed(
            f"containerd is not ready after {deadline_s} s ({last}): {self.daemon.log_tail()}",
            where=self.inside.name,
        )

    def restart(self) -> None:
        """Ends it as systemd would and starts it again; containers live on."""
        self.daemon.stop()
        self.start()

    def kill(self) -> None:
        """kill -9, and waits for the end."""
        self.daemon.stop("KILL")

    def import_images(self, archive: str = ARCHIVE) -> None:
        """Imports an archive that stands on the node, where CRI sees it."""
        self.inside.run(["ctr", "--namespace=k8s.io", "images", "import", "--no-unpack", archive])
