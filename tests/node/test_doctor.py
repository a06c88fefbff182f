# SPDX-License-Identifier: Apache-2.0
"""`podferry doctor` on a real node: nothing that is needed may be missing there."""

from __future__ import annotations

import json

from tests.testbed import service
from tests.testbed.node import Node
from tests.testbed.service import Shim


def test_doctor_finds_a_node_fit(node: Node, shim: Shim) -> None:
    done = node.exec([service.PODFERRY, "doctor", "--output", "json"], check=False)
    report = json.loads(done.stdout)
    missing = [check for check in report["checks"] if check["state"] == "missing"]
    assert missing == []
    assert done.status == 0
    found = {check["id"]: check["state"] for check in report["checks"]}
    assert found["runtime.answers"] == "ok"
    assert found["checkpoint.criu"] == "ok"
