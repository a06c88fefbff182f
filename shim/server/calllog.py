# SPDX-License-Identifier: Apache-2.0
"""Writes a log line for each call that ended: lifecycle and failures at info, the rest at debug.

A line has the call's id, pod, container and times; nothing of what was in its messages.
"""

from __future__ import annotations

import logging

from shim.core.calls import CallLedger, CallRecord
from shim.core.methods import short

logger = logging.getLogger(__name__)

_LIFECYCLE = """
    RunPodSandbox StopPodSandbox RemovePodSandbox CreateContainer StartContainer StopContainer
    RemoveContainer CheckpointContainer CheckpointPod RestorePod
"""
LIFECYCLE = frozenset(_LIFECYCLE.split())

# What kubelet asks about things that may be gone, and what it tries and does without.
ORDINARY_FAILURES = frozenset({"OK", "NOT_FOUND", "UNIMPLEMENTED", "CANCELLED"})


def start(ledger: CallLedger) -> None:
    """Logs the calls of a ledger from now on."""
    ledger.watch(_on_call)


def _on_call(record: CallRecord, ended: bool) -> None:
    if not ended:
        return
    name = short(record.method)
    level = logging.DEBUG
    if name in LIFECYCLE or record.code not in ORDINARY_FAILURES:
        level = logging.INFO
    if not logger.isEnabledFor(level):
        return
    container = record.subject.container
    sandbox = record.subject.sandbox
    logger.log(
        level,
        "call ended call=%d method=%s code=%s took_ms=%.1f runtime_ms=%.1f held_ms=%.1f"
        " pod=%s uid=%s sandbox=%s container=%s container_id=%s",
        record.call_id, name, record.code, record.took_s * 1e3, record.backend_s * 1e3,
        record.held_s * 1e3, record.subject.pod, sandbox.uid if sandbox else "",
        sandbox.sandbox_id[:13] if sandbox else "", container.name if container else "",
        container.container_id[:13] if container else "",
    )  # fmt: skip
