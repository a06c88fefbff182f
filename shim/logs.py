# SPDX-License-Identifier: Apache-2.0
"""Log lines: one per event, key=value, on stderr; never a payload, an environment or a credential.

Messages are written as ``logger.info("call ended call=%d method=%s", ...)``: an event in words,
then pairs. Which keys a line has is decided by that template alone: what fills it in comes from
pods and peers, and is quoted as soon as it could be taken for another pair or another line.
Requests, replies and backend errors are never logged: they carry registry credentials, environment
values and exec output, and kubelet logs the errors anyway.
"""

from __future__ import annotations

import functools
import json
import logging
import re
import sys
import time

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING,
           "error": logging.ERROR}  # fmt: skip

_TEMPLATE = re.compile(r"(?P<event>.*?)(?P<pairs>(?:(?:^| )[a-z_]+=[^ ]+)*)", re.DOTALL)
_CONVERSION = re.compile(r"%(?!%)[^a-zA-Z%]*[a-zA-Z]")
_BARE = re.compile(r"[\w./:@%+,;()\[\]-]*", re.ASCII)


def quoted(value: str) -> str:
    """A value as it stands in a line: bare if it is plain, else in double quotes as JSON has it."""
    return value if _BARE.fullmatch(value) else json.dumps(value)


class KeyValueFormatter(logging.Formatter):
    """Writes ``time=… level=… logger=… msg="event" key=value …``."""

    def format(self, record: logging.LogRecord) -> str:
        """One line; an exception's traceback stands in it as one value."""
        event, pairs = _filled(record)
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        words = [
            f"time={stamp}.{int(record.msecs):03d}Z",
            f"level={record.levelname.lower()}",
            f"logger={quoted(record.name.removeprefix('shim.'))}",
            f"msg={json.dumps(event)}",
            *(f"{key}={quoted(value)}" for key, value in pairs),
        ]
        if record.exc_info:
            words.append(f"error={quoted(self.formatException(record.exc_info))}")
        return " ".join(words)


def _filled(record: logging.LogRecord) -> tuple[str, list[tuple[str, str]]]:
    arguments = record.args if isinstance(record.args, tuple) else ()
    event, pairs = _parsed(str(record.msg))
    filled = []
    try:
        taken = len(_CONVERSION.findall(event))
        words = event % arguments[:taken] if arguments else event
        for key, template in pairs:
            count = len(_CONVERSION.findall(template))
            filled.append((key, template % arguments[taken : taken + count]))
            taken += count
    except (TypeError, ValueError):
        return record.getMessage(), []  # another library's way of writing
    return (words, filled) if taken == len(arguments) else (record.getMessage(), [])


@functools.lru_cache(maxsize=256)
def _parsed(template: str) -> tuple[str, list[tuple[str, str]]]:
    found = _TEMPLATE.fullmatch(template)
    if found is None or not _CONVERSION.search(found["pairs"]):
        return template, []
    pairs = [word.partition("=") for word in found["pairs"].split()]
    # What %r would do is done by quoting; doing it twice would only be hard to read.
    return found["event"], [(key, value.replace("%r", "%s")) for key, _, value in pairs]


def start(level: str) -> None:
    """Sends all log lines of this process to stderr.

    Args:
        level: "debug", "info", "warning" or "error".
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(KeyValueFormatter())
    logging.basicConfig(level=_LEVELS[level], handlers=[handler], force=True)
    # At "debug" gRPC writes a line of its own for every call, which says nothing.
    logging.getLogger("grpc").setLevel(max(_LEVELS[level], logging.INFO))
