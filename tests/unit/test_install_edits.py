# SPDX-License-Identifier: Apache-2.0
"""One value of a YAML file or a command line changes, every other byte stays, and back again."""

from __future__ import annotations

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from shim.errors import InstallRefused
from shim.installer import flag_edit, yaml_edit
from shim.installer.flag_edit import Region

KEY = "containerRuntimeEndpoint"
OURS = "unix:///run/podferry/podferry.sock"
FLAG = "container-runtime-endpoint"

words = st.text("abcXYZ019_/.", min_size=1, max_size=12)
endpoints = words.map(lambda word: f"unix:///run/{word}.sock")
blanks = st.sampled_from(["", " ", "  "])
comments = st.one_of(st.just(""), words.map(lambda word: f" # {word}: é"))


def quoted(value: str) -> st.SearchStrategy[str]:
    """A string in each of YAML's one-line styles."""
    return st.sampled_from([value, f"'{value}'", json.dumps(value)])


@st.composite
def entries(draw: st.DrawFn, name: str) -> str:
    """One top-level entry of another key, of any kind a kubelet file has."""
    kind = draw(st.sampled_from(["scalar", "list", "map", "flow", "block", "empty", "folded"]))
    word = draw(words)
    body = {
        "scalar": f": {draw(quoted(word))}{draw(comments)}",
        "list": f":\n- {json.dumps(word)}\n# in between\n- 5%",
        "map": f":\n  {KEY}: {json.dumps(word)}\n  deeper: [1, true, 0.5]",
        "flow": f": {{a: {json.dumps(word)}, {KEY}: x}}{draw(comments)}",
        "block": f": |\n  {KEY}: {word}\n\n  # no comment",
        "empty": f":{draw(blanks)}{draw(comments)}",
        "folded": f': "{word}\n  and more"',
    }[kind]
    return name + body


@st.composite
def documents(draw: st.DrawFn) -> str:
    """A kubelet configuration with comments, odd spaces, any order, with or without our key."""
    count = draw(st.integers(0, 4))
    lines = [draw(entries(f"key{number}")) for number in range(count)]
    lines += ["kind: KubeletConfiguration" + draw(comments)]
    lines += ["apiVersion: kubelet.config.k8s.io/v1beta1"]
    if draw(st.booleans()):
        value = draw(st.one_of(endpoints.flatmap(quoted), st.sampled_from(["", '""', "null"])))
        lines.append(f"{KEY}:{draw(blanks)} {value}{draw(comments)}".replace(":  #", ": #"))
    lines = draw(st.permutations(lines))
    head = draw(st.sampled_from(["", "# head\n", "---\n", "%YAML 1.1\n---\n", "\n\n", "\ufeff"]))
    gap = draw(st.sampled_from(["\n", "\n\n", "\n# about the next one\n"]))
    tail = draw(st.sampled_from(["\n", "", "\n# tail", "\n...\n", "\n\n"]))
    text = head + gap.join(lines) + tail
    return text.replace("\n", draw(st.sampled_from(["\n", "\r\n"])))


@given(documents())
def test_set_and_put_back_of_a_yaml_key_gives_the_same_bytes(text: str) -> None:
    content = text.encode()
    try:
        before = yaml.safe_load(text)
        edited = yaml_edit.set_key(content, KEY, OURS, "f")
    except (yaml.YAMLError, InstallRefused):
        return
    assert edited is not None
    after = yaml.safe_load(edited.content.decode())
    assert after.pop(KEY) == OURS
    before.pop(KEY, None)
    assert after == before
    assert yaml_edit.set_key(edited.content, KEY, OURS, "f") is None
    assert yaml_edit.put_back(edited.content, edited.edit, "f") == content


@given(documents())
def test_what_the_parser_takes_is_edited_and_not_refused(text: str) -> None:
    try:
        yaml.safe_load(text)
    except yaml.YAMLError:
        return
    assert yaml_edit.set_key(text.encode(), KEY, OURS, "f") is not None


@given(
    st.dictionaries(words, st.one_of(st.integers(), words, st.none()), min_size=1, max_size=4),
    st.sampled_from([None, 2]),
    st.one_of(st.none(), endpoints),
)
def test_json_stays_json(data: dict[str, object], indent: int | None, value: str | None) -> None:
    if value is not None:
        data[KEY] = value
    content = json.dumps(data, indent=indent).encode()
    edited = yaml_edit.set_key(content, KEY, OURS, "f")
    assert edited is not None
    assert json.loads(edited.content) == {**data, KEY: OURS}
    assert yaml_edit.put_back(edited.content, edited.edit, "f") == content


@pytest.mark.parametrize(
    "text",
    [
        "",
        "- a list",
        "just words",
        "{}",
        f"{KEY}: a\n{KEY}: b\n",
        f"{KEY}: |\n  unix:///run/a.sock\n",
        f"a: &x unix:///run/a.sock\n{KEY}: *x\n",
        f"{KEY}: &x unix:///run/a.sock\nb: *x\n",
        f"{KEY}: !!str unix:///run/a.sock\n",
        f"{KEY}: [unix:///run/a.sock]\n",
        f"base: &b\n  {KEY}: x\n<<: *b\n",
        f"{KEY}: a\n---\n{KEY}: b\n",
        f"{KEY}: # a comment first\n  unix:///run/a.sock\n",
        "a: [",
        "a: \t\x00",
    ],
)
def test_what_cannot_be_edited_safely_is_refused_with_the_files_name(text: str) -> None:
    with pytest.raises(InstallRefused, match=r"/etc/kubelet\.yaml"):
        yaml_edit.set_key(text.encode(), KEY, OURS, "/etc/kubelet.yaml")


def test_text_that_is_not_utf_8_is_refused() -> None:
    with pytest.raises(InstallRefused, match="UTF-8"):
        yaml_edit.set_key(b"a: \xff\n", KEY, OURS, "f")


def test_a_value_that_changed_meanwhile_is_not_put_back() -> None:
    edited = yaml_edit.set_key(b"kind: K\n", KEY, OURS, "f")
    assert edited is not None
    theirs = edited.content.replace(OURS.encode(), b"unix:///run/theirs.sock")
    assert yaml_edit.put_back(theirs, edited.edit, "f") is None


command_lines = st.lists(words.map(lambda word: f"--{word}"), max_size=3).map(" ".join)


@given(
    command_lines,
    command_lines,
    endpoints,
    st.sampled_from(["=", " ", "  "]),
    st.sampled_from([FLAG, FLAG.replace("-", "_")]),
    st.sampled_from(["", '"', "'"]),
)
def test_set_and_put_back_of_a_flag_gives_the_same_text(
    front: str, behind: str, value: str, sign: str, name: str, quote: str
) -> None:
    text = f"ARGS={front} --{name}{sign}{quote}{value}{quote} {behind}\n"
    regions = [Region("f", 0, len(text), "ARGS")]
    edited = flag_edit.set_flag(text, regions, FLAG, OURS, "f")
    assert edited is not None
    assert edited.content.decode() == text.replace(value, OURS)
    after = edited.content.decode()
    assert flag_edit.set_flag(after, [Region("f", 0, len(after), "")], FLAG, OURS, "f") is None
    assert flag_edit.put_back(after, edited.edit) == text.encode()


def test_only_the_regions_are_edited() -> None:
    text = f"#--{FLAG}=unix:///a\nB=--{FLAG}=unix:///b\nC=--{FLAG}=unix:///c\n"
    start = text.index("C=")
    edited = flag_edit.set_flag(text, [Region("f", start, len(text), "C")], FLAG, OURS, "f")
    assert edited is not None
    assert edited.content.decode() == text.replace("unix:///c", OURS)


def test_a_flag_with_two_values_is_refused() -> None:
    text = f"--{FLAG}=unix:///a --{FLAG}=unix:///b"
    with pytest.raises(InstallRefused, match="2 different values"):
        flag_edit.set_flag(text, [Region("f", 0, len(text), "")], FLAG, OURS, "f")
