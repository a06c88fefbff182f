# SPDX-License-Identifier: Apache-2.0
"""Log lines: one per event, key=value, on stderr; never a payload, an environment or a credential.

Messages are written as ``logger.info("call ended call=%d method=%s", ...)``: an event in words,
then pairs. Requests, replies and backend errors are never logged: they carry registry credentials,
environment values and exec output, and kubelet logs the errors anyway.
"""

from __future__ import annotations

import logging
import sys
import time

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING,
           "error": logging.ERROR}  # fmt: skip


class KeyValueFormatter(logging.Formatter):
    """Writes ``time=… level=… logger=… msg="event" key=value …``."""

    def format(self, record: logging.LogRecord) -> str:
        """One line; an exception's traceback follows on one line of its own, escaped."""
        event, pairs = _split(record.getMessage())
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = (
            f"time={stamp}.{int(record.msecs):03d}Z level={record.levelname.lower()}"
            f' logger={record.name.removeprefix("shim.")} msg="{event}"{pairs}'
        )
        if record.exc_info:
            line += f" error={self.formatException(record.exc_info)!r}"
        return line


def _split(message: str) -> tuple[str, str]:
    words = message.replace("\n", "\\n").split(" ")
    first_pair = next((i for i, word in enumerate(words) if "=" in word), len(words))
    pairs = " ".join(words[first_pair:])
    return " ".join(words[:first_pair]), f" {pairs}" if pairs else ""


def start(level: str) -> None:
    """Sends all log lines of this process to stderr.

    Args:
        level: "debug", "info", "warning" or "error".
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(KeyValueFormatter())
    logging.basicConfig(level=_LEVELS[level], handlers=[handler], force=True)
