# SPDX-License-Identifier: Apache-2.0
"""What the service remembers of sandboxes and containers: calls name ids, decisions need pods.

The runtime's lists are the truth. This memory is filled by the calls that pass, and rebuilt from
the lists after a restart of ours or of the runtime; an id that is absent here is never an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from shim.core.policy import SILENT, Wishes

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A pod's sandbox. ``attempt`` counts sandboxes of the same pod UID."""

    sandbox_id: str
    namespace: str
    name: str
    uid: str
    attempt: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)
    wishes: Wishes = SILENT
    runtime_handler: str = ""

    @property
    def pod(self) -> str:
        """The pod as people name it: namespace/name."""
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Container:
    """A workload container of a sandbox. ``attempt`` counts restarts under the same name."""

    container_id: str
    sandbox_id: str
    name: str
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class Subject:
    """Whom a call is about, as far as it is known."""

    sandbox: Sandbox | None = None
    container: Container | None = None

    @property
    def pod(self) -> str:
        """namespace/name, "" if it is not known."""
        return self.sandbox.pod if self.sandbox else ""


NOBODY = Subject()


class Registry:
    """The memory itself; single-threaded, all methods return at once."""

    def __init__(self) -> None:
        self._sandboxes: dict[str, Sandbox] = {}
        self._containers: dict[str, Container] = {}
        self._changed_since_list: set[str] | None = None  # None: no rebuild is under way
        self.complete = False

    @property
    def sandboxes(self) -> Iterable[Sandbox]:
        """All sandboxes known."""
        return self._sandboxes.values()

    @property
    def containers(self) -> Iterable[Container]:
        """All containers known."""
        return self._containers.values()

    def add_sandbox(self, sandbox: Sandbox) -> None:
        """Remembers a sandbox that the runtime has just made."""
        self._note(sandbox.sandbox_id)
        self._sandboxes[sandbox.sandbox_id] = sandbox

    def add_container(self, container: Container) -> None:
        """Remembers a container that the runtime has just made."""
        self._note(container.container_id)
        self._containers[container.container_id] = container

    def forget_sandbox(self, sandbox_id: str) -> None:
        """Forgets a removed sandbox and its containers, which the runtime removes with it.

        Args:
            sandbox_id: its id, shortened or not.
        """
        known = self.of_sandbox(sandbox_id).sandbox
        sandbox_id = known.sandbox_id if known else sandbox_id
        self._note(sandbox_id)
        self._sandboxes.pop(sandbox_id, None)
        for container in [c for c in self._containers.values() if c.sandbox_id == sandbox_id]:
            self.forget_container(container.container_id)

    def forget_container(self, container_id: str) -> None:
        """Forgets a removed container.

        Args:
            container_id: its id, shortened or not.
        """
        known = self.of_container(container_id).container
        container_id = known.container_id if known else container_id
        self._note(container_id)
        self._containers.pop(container_id, None)

    def of_sandbox(self, sandbox_id: str) -> Subject:
        """Whom a sandbox id means. CRI lets callers shorten ids as long as they are unique."""
        sandbox = self._sandboxes.get(sandbox_id) or _only_prefixed(self._sandboxes, sandbox_id)
        return Subject(sandbox=sandbox) if sandbox else NOBODY

    def of_container(self, container_id: str) -> Subject:
        """Whom a container id means, shortened or not."""
        container = self._containers.get(container_id) or _only_prefixed(
            self._containers, container_id
        )
        if container is None:
            return NOBODY
        return Subject(self._sandboxes.get(container.sandbox_id), container)

    def begin_rebuild(self) -> None:
        """Says that the runtime's lists are about to be asked for; the answer goes to `rebuild`."""
        self._changed_since_list = set()

    def rebuild(self, sandboxes: Iterable[Sandbox], containers: Iterable[Container]) -> None:
        """Makes the memory equal to the runtime's lists.

        What a call has changed since `begin_rebuild` is newer than the lists and stays as the call
        left it: a list may have been taken before the change and read after it.
        """
        newer = self._changed_since_list or set()
        self._sandboxes = _merged(self._sandboxes, {s.sandbox_id: s for s in sandboxes}, newer)
        listed = {
            c.container_id: c
            for c in containers
            # A sandbox that was removed meanwhile has taken its containers with it.
            if c.sandbox_id in self._sandboxes or c.sandbox_id not in newer
        }
        self._containers = _merged(self._containers, listed, newer)
        self._changed_since_list = None
        self.complete = True

    def doubt(self) -> None:
        """Says that the runtime was away: the memory serves on, but a rebuild is due."""
        self.complete = False

    def _note(self, changed_id: str) -> None:
        if self._changed_since_list is not None:
            self._changed_since_list.add(changed_id)


def _merged(ours: Mapping[str, T], listed: Mapping[str, T], newer: set[str]) -> dict[str, T]:
    kept = {key: value for key, value in ours.items() if key in newer}
    return kept | {key: value for key, value in listed.items() if key not in newer}


def _only_prefixed(known: Mapping[str, T], prefix: str) -> T | None:
    if not prefix:
        return None
    found = [value for key, value in known.items() if key.startswith(prefix)]
    return found[0] if len(found) == 1 else None
