# SPDX-License-Identifier: Apache-2.0
"""Decides which replacement, made by a kubelet, an offered pod comes into; no I/O.

CRI names no owner. A replacement is meant by its annotation `podferry.dev/migration`, or else it is
of the same namespace and has the labels that a controller gives all replicas of one template. Each
offer is granted once, to one pod UID.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

# Kubernetes' own: one value per template (deployment, daemon and stateful set, job).
TEMPLATE_LABELS = (
    "pod-template-hash",
    "controller-revision-hash",
    "batch.kubernetes.io/controller-uid",
)


@dataclass(frozen=True, slots=True)
class Offer:
    """A pod that waits for its replacement.

    Attributes:
        move: the move's id.
        pod: namespace/name on the source.
        labels: of the pod.
        containers: the names of those that come.
    """

    move: str
    pod: str
    labels: Mapping[str, str]
    containers: frozenset[str]

    @property
    def namespace(self) -> str:
        """Of the pod."""
        return self.pod.partition("/")[0]


def chosen(
    offers: Iterable[Offer], namespace: str, name: str, labels: Mapping[str, str], wanted: str
) -> Offer | None:
    """The offer that a sandbox which is made now is meant for; None if it is none's.

    Args:
        offers: those that wait, the oldest first.
        namespace: of the sandbox's pod.
        name: of the sandbox's pod.
        labels: of the sandbox's pod.
        wanted: its annotation, "" if it has none.
    """
    waiting = [one for one in offers if one.namespace == namespace]
    if wanted:
        return next((one for one in waiting if one.move == wanted), None)
    return next((one for one in waiting if _alike(one, name, labels)), None)


def _alike(offer: Offer, name: str, labels: Mapping[str, str]) -> bool:
    for label in TEMPLATE_LABELS:
        if label in offer.labels:
            return labels.get(label) == offer.labels[label]
    # A pod without a template is itself alone.
    return offer.pod == f"{offer.namespace}/{name}"
