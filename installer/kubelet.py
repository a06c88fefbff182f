# SPDX-License-Identifier: Apache-2.0
"""Finds kubelet on a node and says which CRI endpoint it takes, and from where.

Order of precedence, from kubernetes cmd/kubelet/app/server.go: flags are parsed again over the
merged configuration, so a flag wins; then the files of ``--config-dir`` in the order of a walk,
the later wins; then ``--config``; then the built-in default. ``instance-config.yaml`` is never read
by kubelet: kubeadm patches ``config.yaml`` with it at each upgrade (phases/kubelet/config.go), so
both must say the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from shim.errors import InstallRefused
from shim.installer import flag_edit, unit_files, yaml_edit
from shim.installer.flag_edit import Region
from shim.installer.tree import Tree

DEFAULT_ENDPOINT = "unix:///run/containerd/containerd.sock"
RUNTIME_KEY, RUNTIME_FLAG = "containerRuntimeEndpoint", "container-runtime-endpoint"
IMAGE_KEY, IMAGE_FLAG = "imageServiceEndpoint", "image-service-endpoint"
KUBELET_DIR = "/var/lib/kubelet"
INSTANCE_CONFIG = f"{KUBELET_DIR}/instance-config.yaml"
KUBEADM_FLAGS = f"{KUBELET_DIR}/kubeadm-flags.env"
KNOWN_CONFIG = f"{KUBELET_DIR}/config.yaml"
KNOWN_ENVIRONMENT = (KUBEADM_FLAGS, "/etc/default/kubelet", "/etc/sysconfig/kubelet")
RANCHER = {
    "k3s.service": "k3s",
    "k3s-agent.service": "k3s",
    "rke2-server.service": "rke2",
    "rke2-agent.service": "rke2",
}
MICROK8S = ("snap.microk8s.daemon-kubelite.service", "snap.microk8s.daemon-kubelet.service")
MICROK8S_ARGS = "/var/snap/microk8s/current/args/kubelet"


@dataclass(frozen=True)
class Kubelet:
    """A kubelet as it is laid out on a node.

    Attributes:
        unit: the systemd unit that runs it.
        flavour: "kubelet", "k3s", "rke2" or "microk8s".
        regions: the parts of files that reach its command line.
        config: the file of --config, None if there is none.
        config_dir: the directory of --config-dir, None if there is none.
        flags: the last value of each flag we care for.
        kubeadm: whether kubeadm set this node up.
    """

    unit: str
    flavour: str
    regions: tuple[Region, ...]
    config: str | None
    config_dir: str | None
    flags: dict[str, str]
    kubeadm: bool

    def node_name(self, tree: Tree) -> str:
        """The name this kubelet registers under."""
        host = (tree.read("/etc/hostname") or b"").decode("utf-8", "replace").strip()
        return (self.flags.get("hostname-override") or host).lower()


@dataclass(frozen=True)
class Said:
    """An endpoint and who says it.

    Attributes:
        value: the endpoint, None if nobody says one.
        place: "flag", "drop-in", "config" or "default".
        path: the file; "" for the default.
    """

    value: str | None
    place: str
    path: str


def find(tree: Tree, given: Sequence[str] = ()) -> Kubelet:
    """Finds the kubelet of a node.

    Args:
        tree: the node's files.
        given: configuration files or directories named by the user, instead of those in the unit.

    Raises:
        InstallRefused: there is none, or its configuration cannot be found.
    """
    kubelet = _find_unit(tree) or _find_known(tree)
    for path in given:
        if tree.names(path) is not None:
            kubelet = _with(kubelet, config_dir=path)
        elif tree.read(path) is not None:
            kubelet = _with(kubelet, config=path)
        else:
            raise InstallRefused("does not exist", where=path, remedy="check --kubelet-config")
    if not (kubelet.config or kubelet.config_dir or kubelet.regions):
        raise InstallRefused(
            "no kubelet was found: no unit, no configuration file",
            where=kubelet.unit,
            remedy="name its configuration file or directory with --kubelet-config",
        )
    return kubelet


def runtime_endpoint(tree: Tree, kubelet: Kubelet, *, without: str = "") -> Said:
    """Which CRI endpoint kubelet would take if it started now; ``without`` ignores one file."""
    said = _said(tree, kubelet, RUNTIME_FLAG, RUNTIME_KEY, without)
    return said if said.value else Said(DEFAULT_ENDPOINT, "default", "")


def image_endpoint(tree: Tree, kubelet: Kubelet, *, without: str = "") -> Said:
    """Which image endpoint is set, None as a value if kubelet takes the runtime's for it."""
    return _said(tree, kubelet, IMAGE_FLAG, IMAGE_KEY, without)


def walk_drop_ins(tree: Tree, directory: str) -> Iterator[str]:
    """The files kubelet reads from --config-dir, in its order (WalkDir, ``.conf`` only)."""
    for name in tree.names(directory) or ():
        path = f"{directory.rstrip('/')}/{name}"
        if tree.names(path) is not None:
            yield from walk_drop_ins(tree, path)
        elif name.endswith(".conf"):
            yield path


def _said(tree: Tree, kubelet: Kubelet, flag: str, key: str, without: str) -> Said:
    # Of several places the last on the command line decides; install sets all of them alike.
    for region in reversed(kubelet.regions):
        text = (tree.read(region.path) or b"").decode("utf-8", "replace")
        if values := flag_edit.find_values(text, [region], flag):
            return Said(kubelet.flags.get(flag, values[-1]), "flag", region.path)
    said = Said(None, "default", "")
    if kubelet.config and (content := tree.read(kubelet.config)) is not None:
        value = yaml_edit.get_key(content, key, kubelet.config)
        said = Said(str(value), "config", kubelet.config) if value else said
    for path in walk_drop_ins(tree, kubelet.config_dir) if kubelet.config_dir else ():
        content = tree.read(path)
        if path == without or content is None:
            continue
        value = yaml_edit.get_key(content, key, path)
        said = Said(str(value), "drop-in", path) if value else said
    return said


def _find_unit(tree: Tree) -> Kubelet | None:
    service = unit_files.read_service(tree, "kubelet.service")
    if service is not None:
        flags = _flags(service.arguments)
        return Kubelet(
            "kubelet.service",
            "kubelet",
            service.regions,
            flags.get("config"),
            flags.get("config-dir"),
            flags,
            _is_kubeadm(tree),
        )
    for unit, product in RANCHER.items():
        if (found := unit_files.read_service(tree, unit)) is not None:
            return _rancher(tree, unit, product, found.arguments)
    if (content := tree.read(MICROK8S_ARGS)) is not None:
        return _microk8s(tree, content.decode("utf-8", "replace"))
    return None


def _rancher(tree: Tree, unit: str, product: str, arguments: tuple[str, ...]) -> Kubelet:
    """k3s and rke2 run kubelet inside; since 1.32 it reads a directory of drop-ins."""
    directory = f"/var/lib/rancher/{product}/agent/etc/kubelet.conf.d"
    settings = (tree.read(f"/etc/rancher/{product}/config.yaml") or b"").decode("utf-8", "replace")
    overridden = re.compile(rf"kubelet-arg[^\n]*{RUNTIME_FLAG}|-\s*[\"']?{RUNTIME_FLAG}=")
    if overridden.search(" ".join(arguments)) or overridden.search(settings):
        raise InstallRefused(
            f"{product} gives kubelet {RUNTIME_FLAG} as a kubelet-arg, which beats its drop-ins",
            where=unit,
            remedy="remove that kubelet-arg",
        )
    if tree.names(directory) is None:
        raise InstallRefused(
            f"{product} has no directory of kubelet drop-ins (before 1.32, or never started)",
            where=directory,
            remedy=f"upgrade or start {product}, or name the directory with --kubelet-config",
        )
    return Kubelet(unit, product, (), None, directory, {}, False)


def _microk8s(tree: Tree, text: str) -> Kubelet:
    """microk8s reads kubelet's flags from a file, one on each line, with the snap's variables."""
    unit = next((u for u in MICROK8S if unit_files.read_service(tree, u)), MICROK8S[0])
    regions, start, words = [], 0, []
    for line in text.splitlines(keepends=True):
        if not line.lstrip().startswith("#"):
            regions.append(Region(MICROK8S_ARGS, start, start + len(line), "args"))
            words.append(line.strip())
        start += len(line)
    joined = " ".join(words).replace("${SNAP_COMMON}", "/var/snap/microk8s/common")
    flags = _flags(joined.replace("${SNAP_DATA}", "/var/snap/microk8s/current").split())
    config, directory = flags.get("config"), flags.get("config-dir")
    return Kubelet(unit, "microk8s", tuple(regions), config, directory, flags, False)


def _find_known(tree: Tree) -> Kubelet:
    """Without a unit (an image being built): the names kubeadm and the packages always use."""
    assignments = [a for f in KNOWN_ENVIRONMENT for a in unit_files.read_environment(tree, f)]
    flags = _flags([word for a in assignments for word in a.value.split()])
    config = flags.get("config") or (KNOWN_CONFIG if tree.read(KNOWN_CONFIG) is not None else None)
    regions = tuple(a.region for a in assignments)
    directory = flags.get("config-dir")
    kubeadm = _is_kubeadm(tree)
    return Kubelet("kubelet.service", "kubelet", regions, config, directory, flags, kubeadm)


def _is_kubeadm(tree: Tree) -> bool:
    return tree.read(KUBEADM_FLAGS) is not None or tree.read(INSTANCE_CONFIG) is not None


def _flags(arguments: Sequence[str]) -> dict[str, str]:
    flags: dict[str, str] = {}
    for position, argument in enumerate(arguments):
        name, sign, value = argument.partition("=")
        if not name.startswith("--"):
            continue
        if not sign and position + 1 < len(arguments):
            value = arguments[position + 1]
        flags[name[2:].replace("_", "-")] = value
    return flags


def _with(kubelet: Kubelet, *, config: str | None = None, config_dir: str | None = None) -> Kubelet:
    return Kubelet(
        kubelet.unit,
        kubelet.flavour,
        kubelet.regions,
        config or kubelet.config,
        config_dir or kubelet.config_dir,
        kubelet.flags,
        kubelet.kubeadm,
    )
