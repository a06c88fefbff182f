# SPDX-License-Identifier: Apache-2.0
"""Annotations and settings together say which pods podferry may act on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim.core.policy import MANAGED, MIGRATION, PREFIX, SILENT, Policy, Wishes, read_annotations
from shim.errors import Code, InvalidAnnotation

TRUE_OR_FALSE = "wanted is 'true' or 'false'"
A_NAME = "wanted is the name of a migration: 1 to 253 letters, digits, '-' and '.'"

BAD = [
    *(
        (MANAGED, value, TRUE_OR_FALSE)
        for value in ("", "True", "yes", "1", " true", "true\n", "falsé")
    ),
    *(
        (MIGRATION, value, A_NAME)
        for value in ("", "a b", "../x", "ns/name", "x" * 254, "ünicode", "a\0", "a_b")
    ),
]


@pytest.mark.parametrize(("key", "value", "wanted"), BAD)
def test_a_bad_value_names_key_value_and_what_was_wanted(key: str, value: str, wanted: str) -> None:
    with pytest.raises(InvalidAnnotation) as caught:
        read_annotations({key: value})
    said = str(caught.value)
    assert said.startswith(f"annotation {key}: it is ")
    assert repr(value[:64]) in said
    assert wanted in said
    assert caught.value.remedy
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert "\n" not in said


@pytest.mark.parametrize(
    ("annotations", "wishes"),
    [
        ({}, SILENT),
        ({"app": "x", "other.dev/managed": "maybe"}, SILENT),
        ({MANAGED: "true"}, Wishes(managed=True)),
        ({MANAGED: "false"}, Wishes(managed=False)),
        ({MIGRATION: "web-1.move"}, Wishes(migration="web-1.move")),
        ({MIGRATION: "x" * 253}, Wishes(migration="x" * 253)),
        (
            {PREFIX + "z": "", PREFIX + "a": "?", MANAGED: "true"},
            Wishes(managed=True, unknown=(PREFIX + "a", PREFIX + "z")),
        ),
    ],
)
def test_good_values(annotations: dict[str, str], wishes: Wishes) -> None:
    assert read_annotations(annotations) == wishes


@given(st.dictionaries(st.sampled_from([MANAGED, MIGRATION, PREFIX + "new", "app"]), st.text()))
def test_any_annotations_are_read_or_refused_in_words(annotations: dict[str, str]) -> None:
    try:
        wishes = read_annotations(annotations)
    except InvalidAnnotation as error:
        assert any(key in str(error) for key in (MANAGED, MIGRATION))
    else:
        assert wishes.managed is {"true": True, "false": False}.get(annotations.get(MANAGED, ""))


@pytest.mark.parametrize(
    ("wishes", "asks"),
    [
        (SILENT, False),
        (Wishes(managed=False), False),
        (Wishes(managed=True), True),
        (Wishes(migration="m"), True),
        (Wishes(managed=False, migration="m"), True),
        (Wishes(unknown=(PREFIX + "x",)), False),
    ],
)
def test_who_asks(wishes: Wishes, asks: bool) -> None:
    assert wishes.asks is asks


@pytest.mark.parametrize("by_default", [True, False])
@pytest.mark.parametrize("namespace", ["shop", "kube-system"])
@pytest.mark.parametrize("said", [None, True, False])
def test_the_pods_own_word_wins_then_its_namespace_then_the_default(
    by_default: bool, namespace: str, said: bool | None
) -> None:
    expected = said if said is not None else by_default and namespace == "shop"
    assert Policy(managed=by_default).manages(namespace, Wishes(managed=said)) is expected


def test_the_left_alone_namespaces_can_be_emptied() -> None:
    assert Policy(unmanaged_namespaces=()).manages("kube-system", SILENT)
