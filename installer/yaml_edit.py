# SPDX-License-Identifier: Apache-2.0
"""Changes one top-level key of a YAML (or JSON) mapping and keeps every other byte as it is.

The parser tells where key and value stand; the text between is spliced; both versions are parsed
again and must be equal but for the key. What cannot be done that way is refused.
"""

from __future__ import annotations

import json
import re
from typing import Any

import yaml

from shim.errors import InstallRefused
from shim.installer.edits import Edit, Edited, decode

PLAIN = re.compile(r"[A-Za-z0-9/][A-Za-z0-9:/._-]*[A-Za-z0-9]")
BY_HAND = "set the key by hand, or give the file kubelet really reads with --kubelet-config"


def get_key(content: bytes, key: str, where: str) -> Any:
    """The value of a top-level key, None if it is absent."""
    return _load(decode(content, where), where).get(key)


def set_key(content: bytes, key: str, value: str, where: str) -> Edited | None:
    """Sets a top-level key to a string.

    Args:
        content: the file.
        key: the key.
        value: what it shall be.
        where: the file's name, for messages.

    Returns:
        The new text, None if the key has that value already.

    Raises:
        InstallRefused: it cannot be done without touching anything else.
    """
    text = decode(content, where)
    if _load(text, where).get(key) == value:
        return None
    root = _root(text, where)
    pair = _find(root, key)
    if pair is None:
        result = _insert(text, root, key, value, where)
        former = None
    else:
        start, end = _value_span(text, root, pair, where)
        former = text[start:end]
        quote = getattr(pair[1], "style", None) or ('"' if root.flow_style else "")
        result = text[:start] + " " + _scalar(value, quote) + text[end:]
    _check(text, result, key, where, expect=value)
    return Edited(result.encode(), Edit("yaml", key, value, former))


def put_back(content: bytes, edit: Edit, where: str) -> bytes | None:
    """Undoes one edit in a text that may have been changed elsewhere since.

    Returns:
        The text without our value, None if the key no longer holds it.

    Raises:
        InstallRefused: it cannot be done without touching anything else.
    """
    text = decode(content, where)
    if _load(text, where).get(edit.key) != edit.value:
        return None
    root = _root(text, where)
    pair = _find(root, edit.key)
    assert pair is not None  # the value was found above
    if edit.former is None:
        result = _remove(text, root, pair)
    else:
        start, end = _value_span(text, root, pair, where)
        result = text[:start] + edit.former + text[end:]
    _check(text, result, edit.key, where, expect=None)
    return result.encode()


def _load(text: str, where: str) -> dict[str, Any]:
    try:
        data = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        raise InstallRefused(
            f"is not YAML with one document: {' '.join(str(error).split())}",
            where=where,
            remedy=BY_HAND,
        ) from error
    if not isinstance(data, dict):
        raise InstallRefused("is not a YAML mapping", where=where, remedy=BY_HAND)
    return data


def _root(text: str, where: str) -> yaml.MappingNode:
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode):
        raise InstallRefused("is not a YAML mapping", where=where, remedy=BY_HAND)
    keys = [key.value for key, _ in root.value]
    twice = {str(key) for key in keys if keys.count(key) > 1}
    if twice or "<<" in keys:
        names = ", ".join(sorted(twice)) or "<<"
        raise InstallRefused(f"has a doubled or merged key ({names})", where=where, remedy=BY_HAND)
    return root


def _find(root: yaml.MappingNode, key: str) -> tuple[yaml.Node, yaml.Node] | None:
    return next(((k, v) for k, v in root.value if k.value == key), None)


def _value_span(
    text: str, root: yaml.MappingNode, pair: tuple[yaml.Node, yaml.Node], where: str
) -> tuple[int, int]:
    """From just behind the colon to the end of the value."""
    key, value = pair
    between = text[key.end_mark.index : value.start_mark.index]
    colon = key.end_mark.index + between.find(":") + 1
    inside = key.end_mark.index <= value.start_mark.index <= value.end_mark.index
    if (
        not isinstance(value, yaml.ScalarNode)
        or value.style in ("|", ">")
        or not inside  # an alias: its node stands elsewhere
        or not re.fullmatch(r"\s*:\s*", between)
        or text[value.start_mark.index : value.start_mark.index + 1] in ("&", "!", "*")
    ):
        raise InstallRefused(
            f"the value of {key.value} is not a plain or quoted string", where=where, remedy=BY_HAND
        )
    return colon, value.end_mark.index


def _scalar(value: str, quote: str) -> str:
    if quote == "'" and "'" not in value:
        return f"'{value}'"
    return value if not quote and PLAIN.fullmatch(value) else json.dumps(value)


def _insert(text: str, root: yaml.MappingNode, key: str, value: str, where: str) -> str:
    if not root.value:
        raise InstallRefused("is an empty mapping", where=where, remedy=BY_HAND)
    if root.flow_style:
        at = root.value[0][0].start_mark.index
        return f'{text[:at]}"{key}": {json.dumps(value)}, {text[at:]}'
    newline = "\r\n" if "\r\n" in text else "\n"
    indent = " " * root.value[0][0].start_mark.column
    line = f"{indent}{key}: {_scalar(value, '')}{newline}"
    # Behind apiVersion or kind it neither tears a comment from its key nor meets the file's end,
    # where a missing newline or a block scalar would need care.
    for name, node in root.value:
        if name.value in ("apiVersion", "kind") and name.start_mark.line == node.end_mark.line:
            end = text.find("\n", node.end_mark.index)
            if end >= 0:
                return text[: end + 1] + line + text[end + 1 :]
    start = text.rfind("\n", 0, root.value[0][0].start_mark.index) + 1
    return text[:start] + line + text[start:]


def _remove(text: str, root: yaml.MappingNode, pair: tuple[yaml.Node, yaml.Node]) -> str:
    key, value = pair
    if root.flow_style:
        found = re.compile(r",\s?").match(text, value.end_mark.index)
        end = found.end() if found else value.end_mark.index
        return text[: key.start_mark.index] + text[end:]
    start = text.rfind("\n", 0, key.start_mark.index) + 1
    end = text.find("\n", value.end_mark.index) + 1
    return text[:start] + (text[end:] if end else "")


def _check(before: str, after: str, key: str, where: str, *, expect: str | None) -> None:
    """Parses both and compares all but the key.

    Raises:
        InstallRefused: something else would change, so the text must not be written.
    """
    try:
        old, new = _load(before, where), _load(after, where)
    except InstallRefused:
        old, new = {}, {"": None}
    wrong = expect is not None and new.get(key) != expect
    old.pop(key, None)
    new.pop(key, None)
    # repr tells 1 from True and 1.0, and a not-a-number from nothing, which == does not.
    if wrong or repr(old) != repr(new):
        raise InstallRefused(
            f"{key} cannot be changed without changing something else", where=where, remedy=BY_HAND
        )
