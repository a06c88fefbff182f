# SPDX-License-Identifier: Apache-2.0
"""The record of one value changed in a file, enough to change just that value back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from shim.errors import InstallRefused


@dataclass(frozen=True)
class Edit:
    """One value changed.

    Attributes:
        syntax: in which kind of text it stands: a top-level YAML key or a command-line flag.
        key: the key, or the flag without its dashes.
        value: what we set.
        former: the text that stood in its place, None if the key was absent.
    """

    syntax: Literal["yaml", "flag"]
    key: str
    value: str
    former: str | None


@dataclass(frozen=True)
class Edited:
    """A text with one value changed."""

    content: bytes
    edit: Edit


def decode(content: bytes, where: str) -> str:
    """The text of a file we are to edit.

    Raises:
        InstallRefused: it is not UTF-8, so positions in it would be guesses.
    """
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InstallRefused(
            f"is not UTF-8 text (byte {error.start})", where=where, remedy="edit it by hand"
        ) from error
