# SPDX-License-Identifier: Apache-2.0
"""Turns a launch of shim/core/launch.py into the bytes of CRIU's request, and its answer back."""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf.json_format import ParseDict
from google.protobuf.message import DecodeError

from cri_proto import criu_rpc_pb2 as rpc
from shim.core.launch import Launch
from shim.errors import InvalidMessage


@dataclass(frozen=True, slots=True)
class Answer:
    """CRIU's last word on a request.

    Attributes:
        success: whether it was done.
        pid: the restored init, as the caller counts; 0 if none.
        errno_value: CRIU's cr_errno, 0 if none.
        message: the first error line, "" if none; often a harmless one.
    """

    success: bool
    pid: int = 0
    errno_value: int = 0
    message: str = ""


def encode(launch: Launch) -> bytes:
    """The request as CRIU reads it."""
    request = rpc.criu_req(type=launch.kind)
    ParseDict(dict(launch.options), request.opts)
    return request.SerializeToString()


def notify_answer() -> bytes:
    """What a notification of CRIU is answered with."""
    return rpc.criu_req(type=rpc.NOTIFY, notify_success=True).SerializeToString()


def decode(data: bytes) -> Answer | None:
    """Reads one message of CRIU; None is a notification that wants ``notify_answer``.

    Raises:
        InvalidMessage: it is no message of CRIU's.
    """
    try:
        message = rpc.criu_resp.FromString(data)
    except DecodeError as error:
        raise InvalidMessage(f"criu sent {len(data)} bytes that are no answer: {error}") from error
    if message.type == rpc.NOTIFY:
        return None
    return Answer(
        success=message.success,
        pid=message.restore.pid if message.HasField("restore") else 0,
        errno_value=message.cr_errno,
        message=message.cr_errmsg.strip(),
    )
