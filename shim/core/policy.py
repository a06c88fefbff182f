# SPDX-License-Identifier: Apache-2.0
"""Which pods podferry may act on, decided from settings, namespace and annotations alone."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from shim.errors import InvalidAnnotation

PREFIX = "podferry.dev/"
MANAGED = PREFIX + "managed"
MIGRATION = PREFIX + "migration"

KNOWN = frozenset({MANAGED, MIGRATION})


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a pod's annotations say.

    Attributes:
        managed: the pod's own word, None where it is silent.
        migration: the offer this pod wants to claim, "" for none.
        unknown: keys under our prefix that this release does not know, sorted.
    """

    managed: bool | None = None
    migration: str = ""
    unknown: tuple[str, ...] = ()

    @property
    def asks(self) -> bool:
        """Whether the pod asked for podferry by name: then a failure of ours must be told to it."""
        return self.managed is True or bool(self.migration)


SILENT = Wishes()
"""What a pod without any annotation of ours says."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The node's answer for pods that are silent.

    Args:
        managed: whether such pods are managed.
        unmanaged_namespaces: namespaces whose pods are left alone unless they ask.
    """

    managed: bool = True
    unmanaged_namespaces: Collection[str] = ("kube-system",)

    def manages(self, namespace: str, wishes: Wishes) -> bool:
        """Whether podferry may act on a pod."""
        if wishes.managed is not None:
            return wishes.managed
        return self.managed and namespace not in self.unmanaged_namespaces


def read_annotations(annotations: Mapping[str, str]) -> Wishes:
    """Reads the ``podferry.dev/`` annotations of a pod.

    Raises:
        InvalidAnnotation: naming the key, its value and what was wanted. Unknown keys are no
            error, since a pod may be written for a newer release than the node runs.
    """
    ours = {key: value for key, value in annotations.items() if key.startswith(PREFIX)}
    if not ours:
        return SILENT
    return Wishes(
        managed=_boolean(ours, MANAGED),
        migration=_name(ours, MIGRATION),
        unknown=tuple(sorted(set(ours) - KNOWN)),
    )


def _boolean(annotations: Mapping[str, str], key: str) -> bool | None:
    value = annotations.get(key)
    if value is None:
        return None
    if value not in ("true", "false"):
        raise InvalidAnnotation(
            f"it is {value[:64]!r}, wanted is 'true' or 'false'",
            where=f"annotation {key}",
            remedy="correct the annotation in the pod's template, or remove it",
        )
    return value == "true"


def _name(annotations: Mapping[str, str], key: str) -> str:
    value = annotations.get(key, "")
    wellformed = all(c.isascii() and (c.isalnum() or c in "-.") for c in value)
    if (key in annotations and not value) or len(value) > 253 or not wellformed:
        raise InvalidAnnotation(
            f"it is {value[:64]!r}, wanted is the name of a migration: "
            "1 to 253 letters, digits, '-' and '.'",
            where=f"annotation {key}",
            remedy="take the name that `podferry migrations` shows, or remove the annotation",
        )
    return value
