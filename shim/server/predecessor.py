# SPDX-License-Identifier: Apache-2.0
"""The successor's side of a handover: what it asks of the process whose socket it takes."""

from __future__ import annotations

from pathlib import Path

import grpc

from cri_proto import control_pb2 as pb
from cri_proto import control_pb2_grpc
from shim.errors import HandoverRefused

ANSWER_TIMEOUT_S = 5.0
RETIRE_TRIES = 3


def control_path(run_dir: str) -> Path:
    """Where the service of a node listens for the `podferry` command and for successors."""
    return Path(run_dir) / "control.sock"


class Predecessor:
    """A connection to the running service, which outlives the renaming of its socket.

    Args:
        path: the control socket.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._channel = grpc.aio.insecure_channel(f"unix:{path}")
        self._stub = control_pb2_grpc.ControlStub(self._channel)

    async def status(self) -> pb.StatusResponse:
        """What the running service is and holds.

        Raises:
            HandoverRefused: nobody answers, or the one that does retires already.
        """
        try:
            status: pb.StatusResponse = await self._stub.Status(
                pb.StatusRequest(), timeout=ANSWER_TIMEOUT_S
            )
        except grpc.aio.AioRpcError as error:
            raise HandoverRefused(
                f"the running service does not answer ({error.code().name})",
                where=str(self._path),
                remedy="start the service without --takeover",
            ) from error
        if status.phase == "retiring":
            raise HandoverRefused(
                f"process {status.pid} has a successor already", where=str(self._path)
            )
        return status

    async def retire(self, successor_pid: int) -> bool:
        """Tells it that the socket is taken; False if it is gone, which is as good.

        One that is only slow is told again: not knowing, it would end us as too slow in our turn.
        """
        for _ in range(RETIRE_TRIES):
            try:
                await self._stub.Retire(
                    pb.RetireRequest(successor_pid=successor_pid), timeout=ANSWER_TIMEOUT_S
                )
                return True
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.UNAVAILABLE:
                    break
        return False

    async def release(self, hold_id: str) -> int:
        """Lets its calls of a hold go; 0 if it has none or is gone."""
        try:
            answer = await self._stub.Release(
                pb.ReleaseRequest(hold_id=hold_id), timeout=ANSWER_TIMEOUT_S
            )
        except grpc.aio.AioRpcError:
            return 0
        return int(answer.released)

    async def close(self) -> None:
        """Closes the connection."""
        await self._channel.close()
