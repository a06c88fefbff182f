# SPDX-License-Identifier: Apache-2.0
"""Sorts what is mounted into a container by who brings it to the node that a pod moves to.

kubelet's directories (kubernetes: pkg/kubelet/kubelet_getters.go, pkg/volume): below
/var/lib/kubelet/pods/UID there are etc-hosts, containers/NAME/ATTEMPT (termination logs) and
volumes/PLUGIN/NAME, where PLUGIN has its slash written as a tilde.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

from shim.errors import InvalidMessage

PODS_ROOT = "/var/lib/kubelet/pods"
_INSIDE = re.compile(rf"{PODS_ROOT}/(?P<uid>[^/]+)/(?P<rest>.+)\Z")
_VOLUME = re.compile(r"volumes/(?P<plugin>[^/]+)/(?P<name>[^/]+)(/.*)?\Z")

EMPTY_DIR = "kubernetes.io~empty-dir"
# Their contents are files that kubelet writes, not the pod's data.
WRITTEN_BY_KUBELET = frozenset(
    {
        "kubernetes.io~configmap",
        "kubernetes.io~secret",
        "kubernetes.io~projected",
        "kubernetes.io~downward-api",
    }
)


class Bring(enum.StrEnum):
    """Who brings the contents of a mount."""

    COPY = "copy"  # data of the pod, copied in rounds
    KUBELET = "kubelet"  # the target's kubelet, or a copy made once where there is none
    NODE = "node"  # a path of the node that must be there already
    ATTACH = "attach"  # a volume that Kubernetes attaches there


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a mount's contents come from.

    Attributes:
        bring: who brings it.
        uid: of the pod, "" for a path of the node.
        inside: the path below the pod's directory, "" for a path of the node.
        volume: the name of an emptyDir, "" otherwise.
    """

    bring: Bring
    uid: str = ""
    inside: str = ""
    volume: str = ""


def origin(host_path: str) -> Origin:
    """Sorts one mount by its path on the node."""
    found = _INSIDE.match(host_path)
    if not found:
        return Origin(Bring.NODE)
    uid, rest = found["uid"], found["rest"]
    volume = _VOLUME.match(rest)
    if volume is None:
        return Origin(Bring.KUBELET, uid, rest)
    if volume["plugin"] == EMPTY_DIR:
        return Origin(Bring.COPY, uid, rest, volume["name"])
    if volume["plugin"] in WRITTEN_BY_KUBELET:
        return Origin(Bring.KUBELET, uid, rest)
    return Origin(Bring.ATTACH, uid, rest)


def empty_dir_path(uid: str, name: str) -> str:
    """Where an emptyDir is on its node.

    Raises:
        InvalidMessage: no UID or name can be that.
    """
    for one in (uid, name):
        if not one or "/" in one or "\0" in one or one in (".", ".."):
            raise InvalidMessage(f"no name of a pod or volume: {one!r}")
    return f"{PODS_ROOT}/{uid}/volumes/{EMPTY_DIR}/{name}"
