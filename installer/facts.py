# SPDX-License-Identifier: Apache-2.0
"""What install is decided from: the wish, the node's files and settings, its kubelet, its life."""

from __future__ import annotations

from dataclasses import dataclass

from shim.installer import kubelet
from shim.installer.kubelet import Kubelet
from shim.installer.manifest import Manifest
from shim.installer.steps import Live
from shim.installer.tree import Tree, same_socket
from shim.settings import Settings


@dataclass(frozen=True)
class Wish:
    """What the user asked of install.

    Attributes:
        command: absolute path of ``podferry`` on the node.
        version: the version that installs.
        settings_path: the settings file on the node, "" for that of an earlier install or the
            default.
        kubelet_configs: files and directories named with --kubelet-config.
        restart_kubelet: whether kubelet may be restarted.
        containerd_runtime: the OCI runtime that containerd shall run, "" to leave containerd alone.
        restart_containerd: whether containerd may be restarted when its files were changed.
    """

    command: str
    version: str
    settings_path: str = ""
    kubelet_configs: tuple[str, ...] = ()
    restart_kubelet: bool = False
    containerd_runtime: str = ""
    restart_containerd: bool = False


@dataclass(frozen=True)
class Former:
    """What kubelet used before podferry."""

    runtime: str
    image: str | None


@dataclass(frozen=True)
class Facts:
    """All of it.

    Attributes:
        tree: the node's files.
        settings: the node's settings as they will be.
        wish: what the user asked.
        kubelet: the node's kubelet.
        former: what it used before us.
        manifest: what an earlier install left, None if there was none.
        live: the running node, None for a root elsewhere.
    """

    tree: Tree
    settings: Settings
    wish: Wish
    kubelet: Kubelet
    former: Former
    manifest: Manifest | None = None
    live: Live | None = None

    @property
    def ours(self) -> str:
        """The endpoint kubelet shall take."""
        return f"unix://{self.settings.cri.listen}"

    @property
    def image_is_runtimes(self) -> bool:
        """Whether an image endpoint is set and is the runtime's own socket."""
        image = self.former.image
        return same_socket(image, self.former.runtime) or same_socket(image, self.ours)

    @property
    def is_finished(self) -> bool:
        """Whether an earlier install came to its end."""
        return self.manifest is not None and self.manifest.state == "installed"

    def is_recorded(self, path: str) -> bool:
        """Whether an earlier install wrote this file."""
        return self.manifest is not None and self.manifest.file(path) is not None


def former_endpoints(tree: Tree, found: Kubelet, ours: str, manifest: Manifest | None) -> Former:
    """The endpoints kubelet used before us, also when it already uses ours."""
    without = ""
    runtime = kubelet.runtime_endpoint(tree, found)
    if same_socket(runtime.value, ours) and runtime.place == "drop-in":
        without = runtime.path
        runtime = kubelet.runtime_endpoint(tree, found, without=without)
    image = kubelet.image_endpoint(tree, found, without=without)
    if same_socket(runtime.value, ours) and manifest is not None:
        return Former(manifest.former_runtime, manifest.former_image)
    return Former(runtime.value or kubelet.DEFAULT_ENDPOINT, image.value)
