# SPDX-License-Identifier: Apache-2.0
"""Proofs that the native library makes: memory, processes, sockets, BPF, devices."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from shim import _native
from shim._native import Feature
from shim.doctor.facts import BpfLoad, Proof, Proofs, SockDiag, Userfaultfd
from shim.errors import MissingFeature, NativeError
from shim.settings import Settings

LINK_KINDS = ("veth", "ifb", "ipip")
QDISC_KINDS = ("tbf", "plug")
LOG_LINES = 12

Value = TypeVar("Value")
Kind = TypeVar("Kind", bound=str)
NO_FAMILIES: frozenset[str] = frozenset()


def _attempt(call: Callable[[], Value], default: Value) -> tuple[Proof, Value]:
    try:
        value = call()
    except NativeError as error:
        return Proof(False, error.what, error.errno_value), default
    except MissingFeature as error:
        return Proof(False, str(error), loaded=False), default
    return Proof(True), value


def _proof(prove: Callable[[Kind], None], of: Kind) -> Proof:
    return _attempt(partial(prove, of), None)[0]


def proof(*features: Feature) -> Callable[[Settings], Proofs]:
    """A probe of one or more features."""

    return lambda settings: Proofs({str(one): _proof(_native.prove, one) for one in features})


def userfaultfd(settings: Settings) -> Userfaultfd:
    """Fills a page by userfaultfd and reads its feature bits."""
    outcome, features = _attempt(_native.userfaultfd_features, 0)
    return Userfaultfd(outcome, features)


def sock_diag(settings: Settings) -> SockDiag:
    """Lists sockets of each family."""
    outcome, families = _attempt(_native.sock_diag_families, NO_FAMILIES)
    return SockDiag(outcome, families)


def bpf_load(settings: Settings) -> BpfLoad:
    """Loads our own programs, and keeps the verifier's last lines if it refuses."""
    try:
        with _native.Activity():
            return BpfLoad(Proof(True))
    except NativeError as error:
        log = "\n".join(getattr(error, "__notes__", ()))
        tail = "\n".join(log.strip().splitlines()[-LOG_LINES:])
        return BpfLoad(Proof(False, error.what, error.errno_value), tail)
    except MissingFeature as error:
        return BpfLoad(Proof(False, str(error), loaded=False))


def devices(settings: Settings) -> Proofs:
    """Makes each kind of device and queueing discipline that packet holding and tunnels use."""
    links = {kind: _proof(_native.prove_link_kind, kind) for kind in LINK_KINDS}
    qdiscs = {kind: _proof(_native.prove_qdisc_kind, kind) for kind in QDISC_KINDS}
    return Proofs(links | qdiscs)
