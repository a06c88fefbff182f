# SPDX-License-Identifier: Apache-2.0
"""The error tree is the one that its module draws, and each error says its code and its remedy."""

from __future__ import annotations

import inspect
import re

import grpc
import pytest

from shim import errors
from shim.errors import Code, NativeError, PodferryError

LINE = re.compile(r"^ {4}(?P<branch>[│├└─ ]*)(?P<name>\w+) *(?P<code>[A-Z_]{4,})?(?:  |$)")


def classes() -> set[type[PodferryError]]:
    """All error classes of the module."""
    return {
        kind for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, PodferryError)
    }  # fmt: skip


def drawn() -> dict[str, tuple[str, str]]:
    """The drawing: (name of the class above, code, inherited where it is not drawn) by name."""
    tree: dict[str, tuple[str, str]] = {}
    above: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        found = LINE.match(line)
        if found is None:
            continue
        depth = len(found["branch"]) // 4
        del above[depth:]
        parent = above[-1] if above else "Exception"
        tree[found["name"]] = (parent, found["code"] or tree[parent][1])
        above.append(found["name"])
    return tree


def test_the_drawing_is_the_tree() -> None:
    actual = {kind.__name__: (kind.__mro__[1].__name__, kind.code.name) for kind in classes()}
    assert drawn() == actual


def test_the_drawing_says_for_each_error_what_it_means() -> None:
    for name in drawn():
        line = next(text for text in (errors.__doc__ or "").splitlines() if f" {name} " in text)
        assert re.search(r"  [a-z].{10,}$", line), line


@pytest.mark.parametrize("kind", sorted(classes(), key=str))
def test_each_class_has_a_code_that_grpc_knows_and_a_docstring(kind: type[PodferryError]) -> None:
    assert isinstance(kind.code, Code)
    assert kind.code is not Code.OK
    assert kind.__doc__
    assert kind("what").code is kind.code


def test_codes_are_grpcs() -> None:
    ours = {code.name: int(code) for code in Code}
    assert ours == {code.name: code.value[0] for code in grpc.StatusCode}


@pytest.mark.parametrize(
    ("where", "remedy", "said"),
    [
        ("", "", "it is wrong"),
        ("/etc/x", "", "/etc/x: it is wrong"),
        ("", "change it", "it is wrong; change it"),
        ("/etc/x", "change it", "/etc/x: it is wrong; change it"),
    ],
)
def test_an_error_says_where_what_and_what_to_do(where: str, remedy: str, said: str) -> None:
    error = PodferryError("it is wrong", where=where, remedy=remedy)
    assert str(error) == said
    assert (error.what, error.where, error.remedy) == ("it is wrong", where, remedy)


def test_a_native_error_carries_its_errno() -> None:
    error = NativeError("cannot map", errno_value=12, where="pager")
    assert (error.errno_value, str(error)) == (12, "pager: cannot map")
