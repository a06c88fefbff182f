# SPDX-License-Identifier: Apache-2.0
"""Settings: every wrong one names file, key, value and what was wanted; drop-ins merge by key."""

from __future__ import annotations

import datetime
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim.errors import InvalidSettings
from shim.settings import Settings, load, parse

DOCUMENT = Path(__file__).parents[2] / "docs" / "settings.md"
SECTIONS: dict[str, Any] = {f.name: f.type for f in msgspec.structs.fields(Settings)}
KEYS = {
    f"{section}.{field.name}": (
        field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    )
    for section, kind in SECTIONS.items()
    for field in msgspec.structs.fields(kind)
}

A_PATH = "wanted is an absolute path"
SECONDS = "wanted is a number of seconds, above 0, at most 86400"

WRONG: list[tuple[str, str, str]] = [
    ("cri.listen", '"run/x.sock"', A_PATH),
    ("cri.listen", '"/"', A_PATH),
    ("cri.listen", "7", A_PATH),
    ("cri.listen", '"/a\\u0000b"', A_PATH),
    ("cri.runtime", "true", A_PATH),
    ("cri.connection_age_s", '"10s"', "wanted is a number of seconds, 1 to 3600"),
    ("cri.connection_age_s", "0.5", "1 to 3600"),
    ("cri.connection_age_s", "3601", "1 to 3600"),
    ("cri.connection_age_s", "nan", "1 to 3600"),
    ("service.run_dir", '""', A_PATH),
    ("service.state_dir", '"var"', A_PATH),
    ("service.linger_calls_s", "0", SECONDS),
    ("service.linger_calls_s", "inf", SECONDS),
    ("service.stop_grace_s", "-1", SECONDS),
    ("service.stop_grace_s", "true", SECONDS),
    (
        "metrics.listen",
        '"9847"',
        "wanted is 'address:port' with a port up to 65535, or '' for none",
    ),
    ("metrics.listen", '"127.0.0.1:65536"', "up to 65535"),
    ("metrics.listen", '"127.0.0.1:http"', "up to 65535"),
    ("metrics.listen", "9847", "up to 65535"),
    ("log.level", '"loud"', "wanted is one of 'debug', 'info', 'warning', 'error'"),
    ("log.level", "3", "wanted is one of 'debug', 'info', 'warning', 'error'"),
    ("policy.managed", '"false"', "wanted is true or false"),
    ("policy.managed", "0", "wanted is true or false"),
    ("policy.unmanaged_namespaces", '"kube-system"', "wanted is a list of strings"),
    ("policy.unmanaged_namespaces", '["a", 1]', "wanted is a list of strings"),
    ("sleep.images_dir", '"images"', A_PATH),
    ("sleep.prepare_wake", '"yes"', "wanted is true or false"),
    ("peers.node", "7", "it is 7"),
    ("peers.listen", '"9848"', "wanted is 'address:port' with a port up to 65535, or '' for none"),
    ("peers.pages_port", "65536", "wanted is a port, 0 to 65535"),
    ("peers.pages_port", '"9849"', "wanted is a port, 0 to 65535"),
    ("peers.ca", '"ca.crt"', A_PATH),
    ("peers.certificate", "1", A_PATH),
    ("peers.key", '""', A_PATH),
    ("peers.nodes", '{ a = "10.0.0.1" }', "wanted is a table, each value 'address:port'"),
    ("peers.nodes", '"a"', "wanted is a table, each value 'address:port'"),
    ("move.freeze_budget_s", "0", SECONDS),
    ("move.freeze_deadline_s", "0", SECONDS),
    ("move.rounds", "0", "wanted is a number from 1 to 100"),
    ("move.claim_deadline_s", '"1m"', SECONDS),
    ("move.stores_dir", '"stores"', A_PATH),
    ("policy.managed", "{ deep = 1 }", "it is {'deep': 1}, wanted is true or false"),
]


@pytest.fixture
def main_file(tmp_path: Path) -> Path:
    """Where the settings file of the test is."""
    return tmp_path / "config.toml"


def drop_in(main_file: Path, name: str, text: str) -> Path:
    """Writes a drop-in beside the main file."""
    path = main_file.parent / "config.d" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


# ---- wrong values


@pytest.mark.parametrize(("key", "value", "wanted"), WRONG)
def test_a_wrong_value_names_file_key_value_and_what_was_wanted(
    main_file: Path, key: str, value: str, wanted: str
) -> None:
    main_file.write_text(f"{key} = {value}\n")
    with pytest.raises(InvalidSettings) as caught:
        load(main_file)
    said = str(caught.value)
    assert said.startswith(f"{main_file}: key {key}: it is ")
    assert wanted in said
    assert "docs/settings.md" in said
    assert "\n" not in said
    if re.fullmatch(r'"[^\\]+"|-?[\d.]+|nan|inf', value):
        assert f"it is {value.replace(chr(34), chr(39))}, " in said


def test_every_key_has_a_wrong_value_in_this_table() -> None:
    assert {key for key, _, _ in WRONG} == set(KEYS)


@pytest.mark.parametrize(
    ("text", "key", "known"),
    [
        ("colour = 1", "colour", "cri, service, metrics, log, policy, sleep"),
        ("[cri]\nlissten = '/x'", "cri.lissten", "listen, runtime, connection_age_s"),
        ("cri.listen_ = 1", "cri.listen_", "listen, runtime, connection_age_s"),
        ('["cr\u00ed"]\n', "cr\u00ed", "cri, service"),
        ('["a.b"]\n', "a.b", "cri, service"),
        ('"a\\nb" = 1', r"a\nb", "cri, service"),
    ],
)
def test_an_unknown_key_is_named_and_the_known_ones_too(
    main_file: Path, text: str, key: str, known: str
) -> None:
    main_file.write_text(text)
    with pytest.raises(InvalidSettings) as caught:
        load(main_file)
    assert str(caught.value).startswith(
        f"{main_file}: key {key} is unknown, known here are {known}"
    )


@pytest.mark.parametrize("section", sorted(SECTIONS))
def test_a_section_that_is_no_table(main_file: Path, section: str) -> None:
    main_file.write_text(f"{section} = 'x'")
    with pytest.raises(InvalidSettings, match=f"key {section}: it is 'x', wanted is a table"):
        load(main_file)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"[cri\n", "is not TOML"),
        (b"a = 1\na = 2\n", "is not TOML"),
        (b"\xff\xfe", "is not TOML"),
        (b"a = " + b"[" * 5000, "is not TOML"),
        (b"cri.connection_age_s = " + b"9" * 5000, "is not TOML"),
        (b"cri.connection_age_s = 0x" + b"f" * 5000, "it is too large, wanted is"),
    ],
)
def test_what_is_no_toml_names_the_file(main_file: Path, text: bytes, said: str) -> None:
    main_file.write_bytes(text)
    with pytest.raises(InvalidSettings) as caught:
        load(main_file)
    assert str(main_file) in str(caught.value)
    assert said in str(caught.value)


def test_a_long_value_is_not_shown_whole(main_file: Path) -> None:
    main_file.write_text(f"log.level = '{'x' * 5000}'")
    with pytest.raises(InvalidSettings) as caught:
        load(main_file)
    assert len(str(caught.value)) < 400


def test_a_file_that_cannot_be_read_is_named(main_file: Path) -> None:
    main_file.mkdir()
    with pytest.raises(InvalidSettings, match=r"config\.toml: cannot be read: Is a directory"):
        load(main_file)


def test_an_absent_file_means_defaults_unless_it_was_asked_for(main_file: Path) -> None:
    assert load(main_file) == Settings()
    with pytest.raises(InvalidSettings, match=r"config\.toml: cannot be read: No such file"):
        load(main_file, required=True)


def test_an_empty_file_means_defaults(main_file: Path) -> None:
    main_file.write_text("")
    assert load(main_file, required=True) == Settings()


def test_our_socket_must_not_be_the_runtimes(main_file: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/run/containerd")
    for listen in ("/run/containerd/containerd.sock", f"{tmp_path}/link/containerd.sock"):
        main_file.write_text(f"cri.listen = '{listen}'")
        with pytest.raises(InvalidSettings, match=r"cri\.listen and cri\.runtime are the same"):
            load(main_file)


# ---- drop-ins


def test_drop_ins_override_single_keys_in_the_order_of_their_names(main_file: Path) -> None:
    main_file.write_text("[cri]\nlisten = '/main'\nruntime = '/main-runtime'\n")
    drop_in(main_file, "20-b.toml", "cri.listen = '/twenty'")
    drop_in(main_file, "10-a.toml", "cri.listen = '/ten'\nlog.level = 'debug'")
    drop_in(main_file, "30-c.conf", "cri.listen = '/not-read'")
    drop_in(main_file, "100.toml", "metrics.listen = ''\nlog.level = 'error'\ncri.listen = '/100'")
    settings = load(main_file)
    assert settings.cri.listen == "/twenty"
    assert settings.cri.runtime == "/main-runtime"
    assert settings.log.level == "error", "by name, 100 comes after 10-a and before 20-b"
    assert settings.metrics.listen == ""


def test_a_list_is_replaced_and_not_joined(main_file: Path) -> None:
    main_file.write_text("policy.unmanaged_namespaces = ['a', 'b']")
    drop_in(main_file, "x.toml", "policy.unmanaged_namespaces = ['c']")
    assert load(main_file).policy.unmanaged_namespaces == ("c",)


def test_drop_ins_count_without_a_main_file(main_file: Path) -> None:
    drop_in(main_file, "x.toml", "log.level = 'warning'")
    assert load(main_file).log.level == "warning"


def test_an_error_in_a_drop_in_names_the_drop_in(main_file: Path) -> None:
    main_file.write_text("log.level = 'debug'")
    bad = drop_in(main_file, "x.toml", "log.level = 'loud'")
    with pytest.raises(InvalidSettings) as caught:
        load(main_file)
    assert str(caught.value).startswith(f"{bad}: key log.level: it is 'loud'")


def test_an_error_is_no_error_less_when_a_later_drop_in_overrides_it(main_file: Path) -> None:
    main_file.write_text("log.level = 'loud'")
    drop_in(main_file, "x.toml", "log.level = 'debug'")
    with pytest.raises(InvalidSettings, match="loud"):
        load(main_file)


# ---- any document

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.just(datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC))
    | st.just(datetime.date(2026, 1, 1))
    | st.just(datetime.time(1, 2))
)
names = st.sampled_from(sorted({part for key in KEYS for part in key.split(".")})) | st.text()
documents = st.dictionaries(
    names,
    st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4),
    ),
    max_size=4,
)
plausible = st.fixed_dictionaries(
    {},
    optional={
        section: st.fixed_dictionaries(
            {},
            optional={f.name: scalars | st.just(f.default) for f in msgspec.structs.fields(kind)},
        )
        for section, kind in SECTIONS.items()
    },
)


@given(documents | plausible)
def test_any_document_is_settings_or_invalid_settings(document: dict[str, Any]) -> None:
    try:
        settings = parse(document, where="here.toml")
    except InvalidSettings as error:
        assert str(error).startswith("here.toml: ")
        assert re.search(
            r"key .* (is unknown, known here are|it is .* wanted is) ", str(error), re.S
        )
    else:
        assert msgspec.convert(msgspec.to_builtins(settings), Settings) == settings


def test_a_key_that_looks_like_a_message_of_the_checker_is_no_crash() -> None:
    for key in ("x` - at `$.cri", "x` - at `$cri`", "` - at `$..", "$", "`"):
        with pytest.raises(InvalidSettings, match=r"^f: "):
            parse({key: 1}, where="f")


# ---- the document


def test_the_document_names_every_key_with_its_default() -> None:
    text = DOCUMENT.read_text("utf-8")
    for key, default in KEYS.items():
        section, _, name = key.partition(".")
        heading = re.search(rf"^### `{re.escape(name)}`\n(?P<rest>.*)", _section(text, section),
                            re.S | re.M)  # fmt: skip
        assert heading, f"docs/settings.md has no heading for {key}"
        shown = f"Default: `{_toml(default)}`"
        assert shown in heading["rest"].split("\n### ")[0], f"{key}: wanted {shown}"


def test_the_document_names_no_key_that_does_not_exist() -> None:
    text = DOCUMENT.read_text("utf-8")
    found = {
        f"{section}.{name}"
        for section in re.findall(r"^## `\[(\w+)\]`", text, re.M)
        for name in re.findall(r"^### `(\w+)`", _section(text, section), re.M)
    }
    assert found == set(KEYS)


def test_every_example_of_the_document_is_valid(main_file: Path) -> None:
    examples = re.findall(r"^```toml\n(.*?)^```", DOCUMENT.read_text("utf-8"), re.S | re.M)
    assert len(examples) >= len(SECTIONS)
    for example in examples:
        main_file.write_text(example)
        load(main_file)


def _section(text: str, section: str) -> str:
    found = re.search(rf"^## `\[{section}\]`\n(.*?)(?=^## |\Z)", text, re.S | re.M)
    assert found, f"docs/settings.md has no section [{section}]"
    return found[1]


def _toml(value: Any) -> str:
    if value == {}:
        return "{}"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ", ".join(f'"{item}"' for item in value) + "]"
    return f'"{value}"' if isinstance(value, str) else repr(value)
