# SPDX-License-Identifier: Apache-2.0
"""Finds kubelet, running and on disk, and the CRI endpoint each of the two takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import psutil

from shim.doctor.facts import Kubelet
from shim.errors import PodferryError
from shim.installer import kubelet as files
from shim.installer.tree import RootTree
from shim.settings import Settings

ENDPOINT_FLAG = "--container-runtime-endpoint"


def kubelet(settings: Settings) -> Kubelet:
    """What the running kubelet was started with, and what it would be started with now."""
    ours = f"unix://{settings.cri.listen}"
    pid, running = _running()
    tree = RootTree(Path("/"))
    try:
        said = files.runtime_endpoint(tree, files.find(tree))
    except (PodferryError, OSError) as error:
        return Kubelet(bool(pid), ours, pid, running, problem=str(error))
    configured = said.value or files.DEFAULT_ENDPOINT
    return Kubelet(True, ours, pid, running, configured, said.path or said.place)


def _running() -> tuple[int, str]:
    for process in psutil.process_iter(["name", "cmdline"]):
        arguments = process.info["cmdline"] or []
        if process.info["name"] == "kubelet" and arguments and _is_this_nodes(process.pid):
            return process.pid, flag_value(arguments)
    return 0, ""


def _is_this_nodes(pid: int) -> bool:
    # A node may itself be a container of this machine: its kubelet is not ours to speak of.
    try:
        theirs = Path(f"/proc/{pid}/ns/pid").readlink()
    except PermissionError:
        return True
    except OSError:  # it has just ended
        return False
    return theirs == Path("/proc/self/ns/pid").readlink()


def flag_value(arguments: Sequence[str]) -> str:
    """The last value of the endpoint flag on a command line, "" if it is not there."""
    value = ""
    for index, argument in enumerate(arguments):
        flag, equals, rest = argument.partition("=")
        # Go's flag packages take one dash or two, and the value behind "=" or as the next word.
        if flag not in (ENDPOINT_FLAG, ENDPOINT_FLAG[1:]):
            continue
        if equals:
            value = rest
        elif index + 1 < len(arguments):
            value = arguments[index + 1]
    return value
