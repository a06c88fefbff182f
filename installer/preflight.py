# SPDX-License-Identifier: Apache-2.0
"""The reasons for which install refuses a node before it touches anything."""

from __future__ import annotations

from shim.errors import InstallRefused
from shim.installer.facts import Former
from shim.installer.steps import Live
from shim.installer.tree import same_socket, socket_path
from shim.settings import Settings

# Kubelet takes cAdvisor's numbers for endpoints that end so (pkg/kubelet/cadvisor/util.go).
CRIO_SUFFIX = "run/crio/crio.sock"
MAX_SOCKET_PATH_BYTES = 107  # sun_path of unix(7) without its final zero
OTHER_RUNTIMES = {
    "crio.sock": "CRI-O",
    "cri-dockerd.sock": "cri-dockerd",
    "dockershim.sock": "dockershim",
}


def former_socket(former: Former, live: Live | None) -> str:
    """The runtime's socket that kubelet used before us.

    Raises:
        InstallRefused: it is no unix socket, or not containerd's.
    """
    path = socket_path(former.runtime)
    if path is None:
        raise InstallRefused(
            f"kubelet's endpoint {former.runtime} is not a unix socket",
            remedy="podferry serves containerd on a unix socket only",
        )
    name = path.rsplit("/", 1)[-1]
    runtime = OTHER_RUNTIMES.get(name)
    if runtime is None and live is not None and live.runtime_name not in (None, "containerd"):
        runtime = live.runtime_name
    if runtime is not None:
        raise InstallRefused(
            f"kubelet's runtime is {runtime}; podferry works with containerd only", where=path
        )
    if "containerd" not in path and (live is None or live.runtime_name is None):
        raise InstallRefused(
            "it cannot be told whether this is containerd's socket: it does not answer",
            where=path,
            remedy="start the runtime, then install",
        )
    return path


def check(settings: Settings, runtime: str) -> None:
    """Checks the settings against what kubelet used.

    Raises:
        InstallRefused: they cannot both be right.
    """
    listen = settings.cri.listen
    if listen.endswith(CRIO_SUFFIX):
        raise InstallRefused(
            "cri.listen ends like CRI-O's socket, which makes kubelet treat us as CRI-O",
            where=listen,
            remedy="choose another name",
        )
    if len(listen.encode()) > MAX_SOCKET_PATH_BYTES:
        raise InstallRefused(
            f"cri.listen is longer than {MAX_SOCKET_PATH_BYTES} bytes", where=listen
        )
    if not same_socket(settings.cri.runtime, runtime):
        raise InstallRefused(
            f"cri.runtime is {settings.cri.runtime}, but kubelet uses {runtime}: it would find "
            "other containers than its own",
            where=listen,
            remedy=f'set runtime = "{runtime}" under [cri] in the settings',
        )
