# SPDX-License-Identifier: Apache-2.0
"""Owns the nodes' wire: the engine's network that joins them, and each node's CNI."""

from __future__ import annotations

import json
from typing import Any

from testcontainers.core.network import Network

from tests.testbed import run

CNI_CONFIG = "/etc/cni/net.d/10-testbed.conflist"
BRIDGE = "cni0"
# 10.244.0.0/16 is what many clusters give to pods; the engine's own networks are in 172.16.0.0/12
# and 192.168.0.0/16.
POD_NETWORK = "10.244.0.0/16"


def make_wire() -> Network:
    """A bridge network for the nodes of one testbed, with this run's label."""
    network = Network(docker_network_kw={"driver": "bridge", "labels": run.labels()})
    network.name = f"pf-{run.short()}-{network.name[:6]}"
    return network.create()


def pod_subnet(index: int) -> str:
    """The pods' subnet of the node with that number."""
    return f"10.244.{index}.0/24"


def cni_config(subnet: str) -> str:
    """Bridge, host ports, firewall and sysctls, as most clusters chain them.

    No masquerading: pods of other nodes must be seen under their own addresses, and there is
    nothing outside.
    """
    bridge: dict[str, Any] = {
        "type": "bridge",
        "bridge": BRIDGE,
        "isGateway": True,
        "ipMasq": False,
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": subnet}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    plugins = [
        bridge,
        {"type": "portmap", "capabilities": {"portMappings": True}},
        {"type": "firewall", "ingressPolicy": "open"},
        {"type": "tuning"},
    ]
    return json.dumps({"cniVersion": "1.0.0", "name": "testbed", "plugins": plugins}, indent=2)
