# SPDX-License-Identifier: Apache-2.0
"""The tree of podferry's own errors, each bound to a gRPC code and to what the caller should do.

An error of the backend is never one of these: it passes through verbatim.

    PodferryError                 INTERNAL             our bug, or a state we do not know
    ├── InvalidInput              INVALID_ARGUMENT     fail: what was given is wrong
    │   ├── InvalidSettings                            the settings file or a drop-in
    │   ├── InvalidAnnotation                          a podferry.dev/ annotation of a pod
    │   └── InvalidMessage                             a message of a peer, of a client, of a file
    ├── NotFound                  NOT_FOUND            fail: no such pod, container, hold or node
    ├── Refused                   FAILED_PRECONDITION  fail until the named thing is changed
    │   ├── SocketInUse                                a living process serves the socket
    │   ├── HandoverRefused                            the service keeps its socket
    │   ├── InstallRefused                             a layout we must not edit
    │   └── MissingFeature                             kernel, CRIU or runtime lacks it
    ├── Unavailable               UNAVAILABLE          retry: nobody answers just now
    ├── RuleFailed                INTERNAL             a rule broke on a pod that asked for podferry
    └── NativeError               INTERNAL             a call into the C library failed
"""

from __future__ import annotations

import enum


class Code(enum.IntEnum):
    """gRPC status codes by number (grpc/doc/statuscodes.md), so that core needs no gRPC."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class PodferryError(Exception):
    """The root of the tree.

    Args:
        what: what is wrong, in one clause.
        where: the file, key, pod or path it is about; "" if there is none.
        remedy: what the reader should do; "" if there is nothing to do.
    """

    code = Code.INTERNAL

    def __init__(self, what: str, *, where: str = "", remedy: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.remedy = remedy

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}; {self.remedy}" if self.remedy else text


class InvalidInput(PodferryError):
    """Something given to us is wrong, and stays wrong if it is given again."""

    code = Code.INVALID_ARGUMENT


class InvalidSettings(InvalidInput):
    """A settings file cannot be read, names an unknown key or holds a value of the wrong kind."""


class InvalidAnnotation(InvalidInput):
    """A podferry.dev/ annotation holds a value it cannot hold."""


class InvalidMessage(InvalidInput):
    """Bytes that should be a message are not one."""


class NotFound(PodferryError):
    """The thing asked for does not exist here."""

    code = Code.NOT_FOUND


class Refused(PodferryError):
    """The request is sound but must not be carried out in the present state."""

    code = Code.FAILED_PRECONDITION


class SocketInUse(Refused):
    """A living process listens on the socket path that we were to serve."""


class HandoverRefused(Refused):
    """The running service would not hand its socket to this process."""


class InstallRefused(Refused):
    """The node's files are laid out in a way the installer must not touch."""


class MissingFeature(Refused):
    """The kernel, CRIU or the runtime lacks a feature that the request needs."""


class Unavailable(PodferryError):
    """The service or the runtime does not answer; the same request may succeed later."""

    code = Code.UNAVAILABLE


class RuleFailed(PodferryError):
    """A rule broke on a pod that asked for podferry, so its call must not pass unexamined."""


class NativeError(PodferryError):
    """A call into the native library failed.

    Args:
        what: the library's own message.
        errno_value: the errno it met, 0 if none.
    """

    def __init__(
        self, what: str, *, errno_value: int = 0, where: str = "", remedy: str = ""
    ) -> None:
        super().__init__(what, where=where, remedy=remedy)
        self.errno_value = errno_value
