# SPDX-License-Identifier: Apache-2.0
"""Plans the drop-in by which containerd runs podferry's OCI runtime; only if the user asks for it.

Passing CRI calls needs nothing of containerd. The drop-in sets one key, ``BinaryName``, and relies
on containerd 2 merging plugin tables key by key (tried with 2.1.9: the other options of the
runtime stay). containerd 1.x replaces a plugin's whole table by the imported one
(containerd/containerd#5837), so its configurations are refused.
"""

from __future__ import annotations

import fnmatch
import json
import tomllib
from typing import Any

from shim.errors import InstallRefused
from shim.installer.manifest import Manifest
from shim.installer.steps import Write
from shim.installer.tree import Tree

CONFIG = "/etc/containerd/config.toml"
DROP_IN = "/etc/containerd/conf.d/99-podferry.toml"
CRI_RUNTIME = "io.containerd.cri.v1.runtime"
CONFIG_VERSION = 3


def plan_containerd(tree: Tree, binary: str, manifest: Manifest | None) -> Write | None:
    """The write of the drop-in, None if it is there as it should be.

    Args:
        tree: the node's files.
        binary: the OCI runtime that containerd shall run.
        manifest: what an earlier install left.

    Raises:
        InstallRefused: containerd would not read it, or would lose other settings by it.
    """
    if tree.read(binary) is None:
        raise InstallRefused("is not there, so no pod could start", where=binary)
    config = _config(tree)
    if config.get("version") != CONFIG_VERSION:
        raise InstallRefused(
            f"has version {config.get('version', 1)}; its drop-ins would replace whole tables",
            where=CONFIG,
            remedy=f"use containerd 2 with a configuration of version {CONFIG_VERSION}",
        )
    if not any(fnmatch.fnmatchcase(DROP_IN, str(p)) for p in config.get("imports", [])):
        raise InstallRefused(
            "does not import drop-ins",
            where=CONFIG,
            remedy='add the line imports = ["/etc/containerd/conf.d/*.toml"] at its top',
        )
    path = tree.resolve(DROP_IN)
    new, now = _drop_in(_runtime_name(config), binary), tree.read(path)
    record = manifest.file(path) if manifest else None
    if now == new and record is not None:
        return None
    base = None if record or now == new else now
    return Write(path, new, "containerd", "containerd runs podferry's OCI runtime", now, base)


def _config(tree: Tree) -> dict[str, Any]:
    content = tree.read(CONFIG)
    if content is None:
        raise InstallRefused("does not exist", where=CONFIG, remedy="write one that imports conf.d")
    try:
        return tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InstallRefused(f"is not TOML: {error}", where=CONFIG) from error


def _runtime_name(config: dict[str, Any]) -> str:
    plugin = config.get("plugins", {}).get(CRI_RUNTIME, {})
    return str(plugin.get("containerd", {}).get("default_runtime_name", "runc"))


def _drop_in(runtime: str, binary: str) -> bytes:
    table = f"plugins.'{CRI_RUNTIME}'.containerd.runtimes.{json.dumps(runtime)}.options"
    return f"""\
# Written by `podferry install`; `podferry uninstall` removes it.
version = {CONFIG_VERSION}

[{table}]
BinaryName = {json.dumps(binary)}
""".encode()
