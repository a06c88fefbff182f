# SPDX-License-Identifier: Apache-2.0
"""podferry is replaced by a successor on both nodes; pods move before and after."""

from __future__ import annotations

from tests.testbed.moving import MovingNode, eventually
from tests.workloads import start
from tests.workloads.start import REDIS


def test_pods_move_before_and_after_a_handover(pair: tuple[MovingNode, MovingNode]) -> None:
    first, second = pair
    running = start.start(first.kubelet, REDIS)
    uid = running.pod.spec.uid
    with running.client() as client:
        client.ask(3)
        first.migrate(running.pod, second)
        for one in pair:
            one.command("handover")
        eventually(lambda: second.sandbox_of(uid), second)

        def moved() -> bool:
            # The successor listens once its predecessor has given the port up.
            done = second.command(
                "migrate", second.sandbox_of(uid), "--to", first.name, check=False
            )
            return done.status == 0

        eventually(moved, first, second)
        client.ask(3)
        assert client.finish().is_well
    assert [one["step"] for one in first.migrations()][-2:] == ["settled", "resumed"]
    # The testbed knows the process that it has started, not its successor.
    for one in pair:
        one.node.exec(["sh", "-c", "kill $(pgrep -f '[p]odferry --config.*serve')"], check=False)
        eventually(lambda one=one: not one.shim.daemon.is_running(), one)
        one.restart({})
