# SPDX-License-Identifier: Apache-2.0
"""Finds the pods of this node in containerd's bundles; needs no service and no runtime's answer."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from shim.checkpoint.anatomy import Places
from shim.errors import InvalidInput, NotFound

_PREFIX = "io.kubernetes.cri."


@dataclass(frozen=True, slots=True)
class PodHere:
    """A pod with a sandbox on this node.

    Attributes:
        namespace: of the pod.
        name: of the pod.
        uid: of the pod.
        sandbox_id: the runtime's id of its sandbox.
        containers: name to id of those that have a bundle.
    """

    namespace: str
    name: str
    uid: str
    sandbox_id: str
    containers: dict[str, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """As people name it: namespace/name."""
        return f"{self.namespace}/{self.name}"


def listed(places: Places | None = None) -> list[PodHere]:
    """Every pod with a bundle on this node, by name."""
    places = places or Places()
    pods: dict[str, PodHere] = {}
    workloads: list[tuple[str, str, str]] = []
    for config in sorted(places.tasks.glob("*/config.json")):
        try:
            notes = json.loads(config.read_bytes()).get("annotations") or {}
        except (OSError, ValueError):
            continue  # it is being made or removed
        sandbox_id = notes.get(_PREFIX + "sandbox-id", "")
        if notes.get(_PREFIX + "container-type") == "sandbox":
            pods[sandbox_id] = PodHere(
                namespace=notes.get(_PREFIX + "sandbox-namespace", ""),
                name=notes.get(_PREFIX + "sandbox-name", ""),
                uid=notes.get(_PREFIX + "sandbox-uid", ""),
                sandbox_id=sandbox_id,
            )
        elif sandbox_id:
            name = notes.get(_PREFIX + "container-name", "")
            workloads.append((sandbox_id, name, config.parent.name))
    for sandbox_id, name, container_id in workloads:
        if sandbox_id in pods:
            pods[sandbox_id].containers[name] = container_id
    return sorted(pods.values(), key=lambda one: (one.label, one.sandbox_id))


def find(said: str, places: Places | None = None) -> PodHere:
    """The pod that somebody means by "namespace/name", "name" or the start of a sandbox's id.

    Raises:
        NotFound: there is none.
        InvalidInput: there are several.
    """
    pods = listed(places)
    hits = [one for one in pods if one.label == said]
    hits = hits or [one for one in pods if one.name == said]
    if not hits and len(said) >= 6:
        hits = [one for one in pods if one.sandbox_id.startswith(said)]
    if not hits:
        raise NotFound(
            f"no pod {said!r} on this node", remedy="see `podferry pods` for those there are"
        )
    if len(hits) > 1:
        names = ", ".join(f"{one.label} ({one.sandbox_id[:12]})" for one in hits)
        raise InvalidInput(
            f"several pods are called {said!r}: {names}", remedy="name it by its sandbox's id"
        )
    return hits[0]


def network_of(sandbox_id: str, places: Places | None = None) -> Path | None:
    """The file of a sandbox's own network namespace; None if it uses the node's.

    Raises:
        NotFound: there is no such sandbox.
    """
    config = (places or Places()).config(sandbox_id)
    try:
        spec = json.loads(config.read_bytes())
    except (OSError, ValueError) as error:
        raise NotFound("no such sandbox", where=f"sandbox {sandbox_id}") from error
    for one in (spec.get("linux") or {}).get("namespaces") or []:
        if one.get("type") == "network" and one.get("path"):
            return Path(one["path"])
    return None
