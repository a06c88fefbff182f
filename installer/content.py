# SPDX-License-Identifier: Apache-2.0
"""The text of every file that is podferry's own on a node."""

from __future__ import annotations

import inspect
import json
import re
from typing import Any

import msgspec

from shim.errors import InstallRefused
from shim.installer.kubelet import IMAGE_KEY, RUNTIME_KEY, Kubelet
from shim.settings import Cri, Settings

SETTINGS = "/etc/podferry/config.toml"
UNIT_NAME = "podferry.service"
UNIT = f"/etc/systemd/system/{UNIT_NAME}"
WANTED_LINK = f"/etc/systemd/system/multi-user.target.wants/{UNIT_NAME}"
SYSCTL = "/etc/sysctl.d/90-podferry.conf"
STATE_DIR = "/var/lib/podferry"
INSTALL_DIR = f"{STATE_DIR}/install"
# CRIU's page server moves memory through pipes of this size; without CAP_SYS_RESOURCE a larger one
# than the limit is refused ("tee: Operation not permitted").
# A pod's connections are looked for while it stands still, twice through all of their hash table:
# the node's has a slot for each 100 KiB of memory, which takes milliseconds (Linux 6.1).
SYSCTLS = {"fs.pipe-max-size": "33554432", "net.ipv4.tcp_child_ehash_entries": "16384"}
KUBELET_DROP_IN_NAMES = ("99-podferry.conf", "zz-podferry.conf", "~podferry.conf")
ORDER_NAME = "10-podferry.conf"
RUNTIME_UNITS = {
    "kubelet": "containerd.service",
    "microk8s": "snap.microk8s.daemon-containerd.service",
}
SAFE_PATH = re.compile(r"/[A-Za-z0-9/._+-]+")
WATCHDOG_S = 10
STOP_MARGIN_S = 10


def kubelet_unit_drop_in(kubelet: Kubelet) -> str:
    """The path of the drop-in that orders kubelet behind us."""
    return f"/etc/systemd/system/{kubelet.unit}.d/{ORDER_NAME}"


def service_unit(command: str, settings_path: str, settings: Settings, kubelet: Kubelet) -> bytes:
    """The unit of the node service.

    Args:
        command: absolute path of ``podferry`` on the node.
        settings_path: absolute path of its settings on the node.
        settings: what they say.
        kubelet: whom it serves.

    Raises:
        InstallRefused: a path has characters that a unit file would read as something else.
    """
    for path in (command, settings_path):
        if not SAFE_PATH.fullmatch(path):
            raise InstallRefused(
                "cannot stand in a systemd unit as it is", where=path, remedy="use a plain path"
            )
    podferry = f"{command} --config {settings_path}"
    runtime = RUNTIME_UNITS.get(kubelet.flavour)
    # k3s and rke2 start containerd themselves, after us: their socket appears later, and until
    # then calls are answered Unavailable, as kubelet expects of a runtime that starts.
    order = f"After={runtime}\nWants={runtime}\n" if runtime else ""
    stop_s = int(settings.service.stop_grace_s) + STOP_MARGIN_S
    return f"""\
# Written by `podferry install`; change it with `systemctl edit {UNIT_NAME}`.
[Unit]
Description=podferry, the CRI endpoint of this node
{order}Before={kubelet.unit}
# Nothing else answers kubelet: try again for ever.
StartLimitIntervalSec=0

[Service]
Type=notify
# A restart without loss starts the successor from the running process, which then names it with
# MAINPID=; so a process that is not the main one must be heard.
NotifyAccess=all
ExecStart={podferry} serve
ExecReload={podferry} handover
Restart=always
RestartSec=100ms
WatchdogSec={WATCHDOG_S}s
TimeoutStartSec=60s
TimeoutStopSec={stop_s}s
# A process that was replaced still finishes its calls, and what keeps containers must survive us.
KillMode=process
RuntimeDirectory=podferry
RuntimeDirectoryMode=0711
RuntimeDirectoryPreserve=yes
StateDirectory=podferry
StateDirectoryMode=0700
OOMScoreAdjust=-999
LimitNOFILE=1048576
LimitMEMLOCK=infinity
# A core file would hold registry credentials and the memory of pods.
LimitCORE=0
TasksMax=infinity
# No sandboxing: a private mount namespace, dropped capabilities or a seccomp filter would be
# inherited by CRIU, which needs the host as it is.

[Install]
WantedBy=multi-user.target
""".encode()


def kubelet_order() -> bytes:
    """The drop-in that starts kubelet behind us; Wants and not Requires: we may be restarted."""
    return f"""\
# Written by `podferry install`.
[Unit]
After={UNIT_NAME}
Wants={UNIT_NAME}
""".encode()


def kubelet_drop_in(endpoint: str, *, image: bool) -> bytes:
    """The file for kubelet's --config-dir; JSON strings are YAML strings."""
    value = json.dumps(endpoint)
    lines = f"{RUNTIME_KEY}: {value}\n" + (f"{IMAGE_KEY}: {value}\n" if image else "")
    return f"""\
# Written by `podferry install`; `podferry uninstall` removes it.
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
{lines}""".encode()


def sysctl_file() -> bytes:
    """Kernel settings, applied by systemd-sysctl at each boot."""
    lines = "".join(f"{key} = {value}\n" for key, value in SYSCTLS.items())
    why = "# Room for CRIU's pipes; a hash table of its own for each new pod's TCP connections."
    return f"# Written by `podferry install`.\n{why}\n{lines}".encode()


def settings_file(runtime: str) -> bytes:
    """Default settings: every key with meaning and default, out of the settings' docstrings.

    Args:
        runtime: the runtime's socket on this node, the only key that is set.
    """
    parts = [
        "# Settings of podferry; drop-ins go to config.d/*.toml beside this file.\n"
        "# A key with # before it shows its default.\n"
    ]
    for section in msgspec.structs.fields(Settings):
        kind: Any = section.type
        title, meanings = _documented(kind)
        parts.append(f"\n# {title}\n[{section.name}]\n")
        for key in msgspec.structs.fields(kind):
            parts.extend(f"# {line}\n" for line in meanings.get(key.name, ()))
            if kind is Cri and key.name == "runtime":
                parts.append(f"runtime = {json.dumps(runtime)}\n")
            else:
                made_anew = key.default is msgspec.NODEFAULT
                default = key.default_factory() if made_anew else key.default
                parts.append(f"# {key.name} = {_toml(default)}\n")
    return "".join(parts).encode()


def _toml(value: Any) -> str:
    return json.dumps(list(value) if isinstance(value, tuple) else value)


def _documented(kind: type) -> tuple[str, dict[str, list[str]]]:
    """A docstring's first line, and the lines that explain each attribute."""
    head, _, attributes = (inspect.getdoc(kind) or kind.__name__).partition("Attributes:")
    meanings: dict[str, list[str]] = {}
    name = ""
    for line in attributes.splitlines():
        if found := re.fullmatch(r" {4}(\w+): (.*)", line):
            name = found[1]
            meanings[name] = [found[2]]
        elif line.strip() and name:
            meanings[name].append(line.strip())
    return head.strip().partition("\n")[0], meanings
