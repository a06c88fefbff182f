# SPDX-License-Identifier: Apache-2.0
"""How commands reach the running service, and how its refusals become errors of our tree."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc

from cri_proto import control_pb2_grpc
from shim import settings
from shim.errors import InvalidInput, NotFound, PodferryError, Refused, Unavailable
from shim.server.predecessor import control_path

TIMEOUT_S = 10.0

_BY_CODE: dict[grpc.StatusCode, type[PodferryError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidInput,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.FAILED_PRECONDITION: Refused,
}


@contextlib.contextmanager
def service(config: Path | None) -> Iterator[Any]:
    """A stub of the running service's control socket.

    Args:
        config: the settings file given on the command line.

    Raises:
        Unavailable: no service answers.
        PodferryError: the service refused; its words.
    """
    chosen = settings.load(config or settings.DEFAULT_PATH, required=config is not None)
    path = control_path(chosen.service.run_dir)
    with grpc.insecure_channel(f"unix:{path}") as channel:
        try:
            yield control_pb2_grpc.ControlStub(channel)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                raise Unavailable(
                    "the service does not answer",
                    where=str(path),
                    remedy="see `systemctl status podferry`; the socket is readable to root only",
                ) from error
            kind = _BY_CODE.get(error.code(), PodferryError)
            raise kind(error.details() or error.code().name) from error
