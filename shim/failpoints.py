# SPDX-License-Identifier: Apache-2.0
"""Lets a test stop this process at a named line: the kill matrix of docs/migration.md.

PODFERRY_FAILPOINT=kill:NAME ends the process there as kill -9 would; stop:NAME stops it until it is
sent SIGCONT. Without the variable, which no installation sets, nothing happens.
"""

from __future__ import annotations

import os
import signal

VARIABLE = "PODFERRY_FAILPOINT"
_ACTION, _, _NAME = os.environ.get(VARIABLE, "").partition(":")
_SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}
_hit: set[str] = set()


def failpoint(name: str) -> None:
    """A line at which a test may stop this process; each once."""
    if name == _NAME and name not in _hit and _ACTION in _SIGNALS:
        _hit.add(name)
        os.kill(os.getpid(), _SIGNALS[_ACTION])
