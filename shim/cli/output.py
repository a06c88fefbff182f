# SPDX-License-Identifier: Apache-2.0
"""What commands share in the terminal: the --output option, JSON, durations and sizes in words."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import click
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

Command = TypeVar("Command", bound=Callable[..., Any])


def output_option(command: Command) -> Command:
    """Adds ``--output table|json`` to a command."""
    option: Callable[[Command], Command] = click.option(
        "--output",
        type=click.Choice(["table", "json"]),
        default="table",
        show_default=True,
        help="A table for people, or one JSON document with every field for programs.",
    )
    return option(command)


def print_json(data: Any) -> None:
    """Prints one JSON document."""
    click.echo(json.dumps(data, indent=2, sort_keys=True))


def as_dict(message: Message) -> dict[str, Any]:
    """A message with every field, in the names of its proto file; 64-bit integers are strings."""
    fields: dict[str, Any] = MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return fields


@contextlib.contextmanager
def progress(what: str) -> Iterator[Callable[[str], None]]:
    """Shows on a terminal that something is under way; gives what adds to its words.

    It goes to stderr, and where that is no terminal nothing is shown.
    """
    if not sys.stderr.isatty():
        yield lambda more: None
        return
    from rich.console import Console

    with Console(stderr=True).status(f"{what} ...") as status:
        yield lambda more: status.update(f"{what} ... {more}".rstrip())


def span(seconds: float) -> str:
    """A duration in the two units people would say."""
    for unit_s, unit, below_s, below in ((86400, "d", 3600, "h"), (3600, "h", 60, "min")):
        if seconds >= unit_s:
            return f"{int(seconds // unit_s)} {unit} {int(seconds % unit_s // below_s)} {below}"
    if seconds >= 60:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    return f"{seconds:.0f} s"


def micros(us: float) -> str:
    """A time in the unit that needs no more than four digits."""
    if us <= 0:
        return "-"
    return f"{us:.0f} us" if us < 10_000 else f"{us / 1000:.0f} ms"


def size(count_bytes: float) -> str:
    """A size in binary units."""
    for unit in ("B", "KiB", "MiB"):
        if count_bytes < 1024:
            return f"{count_bytes:.0f} {unit}"
        count_bytes /= 1024
    return f"{count_bytes:.1f} GiB"
