# SPDX-License-Identifier: Apache-2.0
"""Announces containers that are to be claimed: containerd creates and starts in one breath.

CRI's CreateContainer only writes down; StartContainer calls the OCI runtime's `create` and at once
its `start`. So the word must be there before: `podferry-runtime create` finds the file, its monitor
begins as CLAIMED, and the file goes (docs/monitor.md).
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path("/run/podferry/claims")


def announce(container_id: str, namespace: str = "k8s.io", root: Path = ROOT) -> None:
    """The container, made by CreateContainer and not yet started, is to be claimed."""
    place = root / namespace
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    (place / container_id).touch(mode=0o600)


def withdraw(container_id: str, namespace: str = "k8s.io", root: Path = ROOT) -> bool:
    """Takes an announcement back; False if it has been taken up, or never was."""
    try:
        (root / namespace / container_id).unlink()
    except FileNotFoundError:
        return False
    return True


def announced(namespace: str = "k8s.io", root: Path = ROOT) -> list[str]:
    """The containers that are announced and not yet created."""
    try:
        return sorted(one.name for one in (root / namespace).iterdir())
    except FileNotFoundError:
        return []
