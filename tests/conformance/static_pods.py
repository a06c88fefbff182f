# SPDX-License-Identifier: Apache-2.0
"""Says which static pods a real kubelet is given: manifests as a user would write them."""

from __future__ import annotations

from typing import Any

from tests.testbed import images

NAMESPACE = "default"
STEADY, CRASHING, HANGING = "steady", "crashing", "hanging"
WEB, SIDE = "web", "side"
PAGE = "podferry test page"
# The file is never seen empty, else the readiness probe would fail now and then by itself.
SIDE_SCRIPT = "while :; do date >/shared/new; mv /shared/new /shared/now; echo tick; sleep 1; done"


def steady() -> dict[str, Any]:
    """Two containers that share a volume, with exec probes every second; must never restart."""
    volume = {"name": "shared", "mountPath": "/shared"}
    fetch = ["busybox", "wget", "-q", "-O", "/dev/null", "http://127.0.0.1/"]
    web = {
        "name": WEB,
        "image": images.NGINX,
        "readinessProbe": _exec_probe(fetch),
        "livenessProbe": _exec_probe(["true"], failureThreshold=2),
        "volumeMounts": [volume],
    }
    side = {
        "name": SIDE,
        "image": images.BUSYBOX,
        "command": ["sh", "-c", SIDE_SCRIPT],
        "readinessProbe": _exec_probe(["test", "-s", "/shared/now"]),
        "volumeMounts": [volume],
    }
    return _pod(STEADY, web, side, volumes=[{"name": "shared", "emptyDir": {}}])


def crashing() -> dict[str, Any]:
    """A container that ends by itself with a status of its own; kubelet restarts it."""
    return _pod(
        CRASHING,
        {"name": "main", "image": images.BUSYBOX, "command": ["sh", "-c", "sleep 1; exit 3"]},
    )


def hanging() -> dict[str, Any]:
    """A container whose liveness probe hangs.

    kubelet restarts it only if the runtime's DeadlineExceeded reaches it with code and text.
    """
    return _pod(
        HANGING,
        {
            "name": "main",
            "image": images.BUSYBOX,
            "command": ["sleep", "1000000"],
            "livenessProbe": _exec_probe(["sleep", "60"], failureThreshold=1),
        },
    )


def _exec_probe(command: list[str], **more: int) -> dict[str, Any]:
    return {
        "exec": {"command": command},
        "periodSeconds": 1,
        # Longer than a busy machine needs to start a process in a container.
        "timeoutSeconds": 5,
        **more,
    }


def _pod(name: str, *containers: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [{"imagePullPolicy": "Never", **one} for one in containers],
            **more,
        },
    }
