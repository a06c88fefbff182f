# SPDX-License-Identifier: Apache-2.0
"""Keeps the requests that pods were made by, so that another node can repeat them.

They hold environments, so they are private, and they live in a tmpfs: after a reboot there is no
container left that was made by them.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from cri_proto import runtime_v1_pb2 as cri
from shim.errors import InvalidMessage, NotFound

_ID = re.compile(r"[A-Za-z0-9_.-]{1,256}\Z")


class Recipes:
    """The kept requests below one directory.

    Args:
        directory: in a tmpfs; made if absent.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def keep_sandbox(self, sandbox_id: str, request: cri.RunPodSandboxRequest) -> None:
        """Keeps what a sandbox was made by."""
        self._write(self._of(sandbox_id) / "sandbox", request.SerializeToString())

    def keep_container(self, container_id: str, request: cri.CreateContainerRequest) -> None:
        """Keeps what a container was made by."""
        self._write(
            self._of(request.pod_sandbox_id) / f"container-{_checked(container_id)}",
            request.SerializeToString(),
        )

    def sandbox(self, sandbox_id: str) -> cri.RunPodSandboxRequest:
        """What a sandbox was made by.

        Raises:
            NotFound: it was made before podferry was here.
        """
        return cri.RunPodSandboxRequest.FromString(self._read(self._of(sandbox_id) / "sandbox"))

    def container(self, sandbox_id: str, container_id: str) -> cri.CreateContainerRequest:
        """What a container was made by.

        Raises:
            NotFound: it was made before podferry was here.
        """
        path = self._of(sandbox_id) / f"container-{_checked(container_id)}"
        return cri.CreateContainerRequest.FromString(self._read(path))

    def forget_sandbox(self, sandbox_id: str) -> None:
        """Forgets a sandbox and its containers."""
        shutil.rmtree(self._of(sandbox_id), ignore_errors=True)

    def forget_container(self, container_id: str) -> None:
        """Forgets a container."""
        for path in self._directory.glob(f"*/container-{_checked(container_id)}"):
            path.unlink(missing_ok=True)

    def _of(self, sandbox_id: str) -> Path:
        return self._directory / _checked(sandbox_id)

    def _write(self, path: Path, data: bytes) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = path.with_suffix(".new")
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
        fresh.replace(path)

    def _read(self, path: Path) -> bytes:
        try:
            return path.read_bytes()
        except OSError as error:
            raise NotFound(
                "what it was made by is not known", where=str(path.name),
                remedy="pods that were made before podferry was installed have to be made anew",
            ) from error  # fmt: skip


def _checked(name: str) -> str:
    if not _ID.match(name) or name in (".", ".."):
        raise InvalidMessage(f"no id: {name!r}")
    return name
