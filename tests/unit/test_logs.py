# SPDX-License-Identifier: Apache-2.0
"""A log line is pairs, one line, and nothing in a value can pass for another pair or line."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shim import logs
from shim.core.calls import CallLedger
from shim.core.methods import RUNTIME
from shim.core.registry import Container, Sandbox, Subject
from shim.server import calllog

HOSTILE = [
    "web msg=forged",
    'web" code="OK',
    "web\nlevel=error",
    "web\r\nlevel=error",
    "a=b",
    "=",
    '"',
    "\\",
    '\\" x="y',
    "\x1b[2Jx",
    "\u2028level=error",
    "\x85level=error",
    "\0",
    "\udc80",
    "%s%d%(x)s",
    " ",
    "é",
    "\u202egnp.exe",
]


def parsed(line: str) -> dict[str, str]:
    """The pairs of a line, read as strictly as a machine would; every key once."""
    pairs: dict[str, str] = {}
    rest = line
    while rest:
        found = re.match(r'([a-z_]+)=("(?:[^"\\]|\\.)*"|[^\s"=]*)(?: |$)', rest)
        assert found, f"no pair at {rest!r}"
        key, value = found.groups()
        assert key not in pairs, f"key {key} twice in {line!r}"
        pairs[key] = json.loads(value) if value.startswith('"') else value
        rest = rest[found.end() :]
    return pairs


def written(write: Callable[[logging.Logger], object], name: str = "shim.test") -> str:
    """The one line that a call of the logger writes."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.KeyValueFormatter())
    logger = logging.Logger(name, logging.DEBUG)
    logger.addHandler(handler)
    write(logger)
    text = stream.getvalue()
    assert text.endswith("\n")
    assert len(text.splitlines()) == 1, text
    return text[:-1]


def test_a_line_has_time_level_logger_event_and_pairs() -> None:
    line = written(lambda log: log.warning("call ended call=%d pod=%s", 7, "shop/web"))
    assert re.match(
        r'time=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z level=warning logger=test msg="call ended"'
        r" call=7 pod=shop/web$",
        line,
    )


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize("conversion", ["%s", "%r"])
def test_a_value_cannot_forge_pairs_or_lines(value: str, conversion: str) -> None:
    line = written(lambda log: log.info(f"made pod={conversion} code=%s", value, "OK"))
    pairs = parsed(line)
    assert list(pairs) == ["time", "level", "logger", "msg", "pod", "code"]
    assert pairs["pod"] == value
    assert (pairs["msg"], pairs["code"], pairs["level"]) == ("made", "OK", "info")
    assert line.isascii()
    assert line.isprintable()


@given(st.text(), st.text())
@example("a", "b=c")
def test_any_two_values_in_one_pair_come_back_whole(namespace: str, name: str) -> None:
    line = written(lambda log: log.info("seen pod=%s/%s calls=%d", namespace, name, 3))
    pairs = parsed(line)
    assert pairs["pod"] == f"{namespace}/{name}"
    assert pairs["calls"] == "3"


@pytest.mark.parametrize("value", HOSTILE)
def test_an_event_filled_with_a_value_stays_one_event(value: str) -> None:
    pairs = parsed(written(lambda log: log.info("saw %s there pod=%s", value, "a/b")))
    assert pairs["msg"] == f"saw {value} there"
    assert pairs["pod"] == "a/b"


@pytest.mark.parametrize(
    ("template", "arguments", "event"),
    [
        ("plain words", (), "plain words"),
        ("literal a=b", (), "literal a=b"),
        ("100% sure", (), "100% sure"),
        ("%(who)s x=%(what)s", ({"who": "me", "what": "a b=c"},), "me x=a b=c"),
        ("two\nlines", (), "two\nlines"),
        ("stray x=%s and words", ("y z=1",), "stray x=y z=1 and words"),
        ("width %5.1f%%", (1.25,), "width   1.2%"),
    ],
)
def test_what_is_written_otherwise_is_all_event(
    template: str, arguments: tuple[Any, ...], event: str
) -> None:
    pairs = parsed(written(lambda log: log.info(template, *arguments)))
    assert pairs["msg"] == event
    assert list(pairs) == ["time", "level", "logger", "msg"]


def test_numbers_keep_their_form_and_empty_values_stay_empty() -> None:
    pairs = parsed(written(lambda log: log.info("x took_ms=%.1f pod=%s n=%d", 1.25, "", 3)))
    assert (pairs["took_ms"], pairs["pod"], pairs["n"]) == ("1.2", "", "3")


def test_an_exception_is_one_value() -> None:
    def write(log: logging.Logger) -> None:
        try:
            raise ValueError("bad\nlevel=error code=OK")
        except ValueError:
            log.exception("rule failed rule=%s", "hold")

    pairs = parsed(written(write))
    assert pairs["rule"] == "hold"
    assert pairs["error"].startswith("Traceback (most recent call last):\n")
    assert pairs["error"].endswith("ValueError: bad\nlevel=error code=OK")


def test_the_logger_of_another_library_keeps_its_name() -> None:
    assert parsed(written(lambda log: log.info("x"), name="asyncio"))["logger"] == "asyncio"


@pytest.mark.parametrize(
    ("level", "shown"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)]
)
def test_start_shows_what_is_severe_enough(
    level: str, shown: int, capsys: pytest.CaptureFixture[str]
) -> None:
    root = logging.getLogger()
    before, before_level = root.handlers[:], root.level
    root.handlers = []
    try:
        logs.start(level)
        for write in (root.debug, root.info, root.warning, root.error):
            write("words")
    finally:
        root.handlers = before
        root.setLevel(before_level)
    assert len(capsys.readouterr().err.splitlines()) == shown


# ---- the line about each call


def ended(method: str, code: str, subject: Subject = Subject()) -> list[tuple[str, str]]:  # noqa: B008
    """(level, line) of what is logged about one call."""
    lines: list[tuple[str, str]] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append((record.levelname, logs.KeyValueFormatter().format(record)))

    handler = Keep()
    logger = logging.getLogger(calllog.__name__)
    logger.addHandler(handler)
    before = logger.level
    logger.setLevel(logging.DEBUG)
    try:
        ledger = CallLedger()
        calllog.start(ledger)
        record = ledger.begin(method, 0.0)
        record.subject = subject
        ledger.end(record, "x", code, 0.25)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
    return lines


@pytest.mark.parametrize(
    ("method", "code", "level"),
    [
        ("StartContainer", "OK", "INFO"),
        ("StartContainer", "NOT_FOUND", "INFO"),
        ("ListContainers", "OK", "DEBUG"),
        ("ListContainers", "UNAVAILABLE", "INFO"),
        ("ContainerStatus", "NOT_FOUND", "DEBUG"),
        ("ExecSync", "OK", "DEBUG"),
        ("ExecSync", "DEADLINE_EXCEEDED", "INFO"),
    ],
)
def test_lifecycle_and_failures_are_info_and_the_rest_is_debug(
    method: str, code: str, level: str
) -> None:
    ((found, _),) = ended(RUNTIME + method, code)
    assert found == level


@pytest.mark.parametrize("name", HOSTILE)
def test_a_pods_name_cannot_forge_the_line_about_its_call(name: str) -> None:
    subject = Subject(
        Sandbox("5aadbeef" * 8, name, name, name), Container("c0ffee" * 10, "s", name)
    )
    ((_, line),) = ended(RUNTIME + "StartContainer", "OK", subject)
    pairs = parsed(line)
    assert pairs["code"] == "OK"
    assert pairs["pod"] == f"{name}/{name}"
    assert pairs["container"] == name
    assert pairs["sandbox"] == "5aadbeef5aadb"
    assert pairs["took_ms"] == "250.0"
