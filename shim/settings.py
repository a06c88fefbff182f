# SPDX-License-Identifier: Apache-2.0
"""The node's settings: one TOML file with drop-ins, read once at start, every key checked."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from shim.errors import InvalidSettings

DEFAULT_PATH = Path("/etc/podferry/config.toml")

_PORT = "[0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]"
LONGEST_SHOWN = 80

# The descriptions are what an error says was wanted.
Seconds = Annotated[
    float, msgspec.Meta(gt=0, le=86400, description="a number of seconds, above 0, at most 86400")
]
ConnectionAge = Annotated[
    float, msgspec.Meta(ge=1, le=3600, description="a number of seconds, 1 to 3600")
]
Port = Annotated[int, msgspec.Meta(ge=0, le=65535, description="a port, 0 to 65535")]
Rounds = Annotated[int, msgspec.Meta(ge=1, le=100, description="a number from 1 to 100")]
AbsolutePath = Annotated[
    str, msgspec.Meta(pattern=r"^/[^\x00]+\Z", description="an absolute path, '/...'")
]
ListenAddress = Annotated[
    str,
    msgspec.Meta(
        pattern=rf"^\Z|^[^\s\x00]+:({_PORT})\Z",
        description="'address:port' with a port up to 65535, or '' for none",
    ),
]


class Cri(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The CRI endpoint we serve and the one behind it.

    Attributes:
        listen: path of the socket kubelet is pointed at.
        runtime: path of the runtime's own CRI socket.
        connection_age_s: how long a client's connection lives before it is asked to reconnect;
            a handover takes a little longer than this.
    """

    listen: AbsolutePath = "/run/podferry/podferry.sock"
    runtime: AbsolutePath = "/run/containerd/containerd.sock"
    connection_age_s: ConnectionAge = 10.0


class Service(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The process itself.

    Attributes:
        run_dir: directory of the control socket and of sockets not yet public (a tmpfs).
        state_dir: directory of the journal (a disk).
        linger_calls_s: how long a process that was replaced waits for its unfinished calls.
        stop_grace_s: how long SIGTERM waits for unfinished calls.
    """

    run_dir: AbsolutePath = "/run/podferry"
    state_dir: AbsolutePath = "/var/lib/podferry"
    linger_calls_s: Seconds = 900.0
    stop_grace_s: Seconds = 5.0


class Sleep(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Pods that sleep.

    Attributes:
        images_dir: directory of the memory of sleeping pods, in a tmpfs or on a disk.
        prepare_wake: whether CRIU is started when a container has fallen asleep and waits; the wake
            is some milliseconds faster, at 1 MiB for each sleeping container.
    """

    images_dir: AbsolutePath = "/run/podferry/images"
    prepare_wake: bool = True


class Peers(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Other nodes, to which pods move.

    Attributes:
        node: this node's name, as its certificate has it; "" means the host's name.
        listen: "address:port" where other nodes reach this one, "" if pods do not move.
        pages_port: the port of the page stream, on the same address; 0 lets the kernel choose.
        ca: the certificate of the cluster's own CA (`podferry pki`).
        certificate: this node's.
        key: its private key.
        nodes: name to "address:port" of the others.
    """

    node: str = ""
    listen: ListenAddress = ""
    pages_port: Port = 9849
    ca: AbsolutePath = "/etc/podferry/pki/ca.crt"
    certificate: AbsolutePath = "/etc/podferry/pki/node.crt"
    key: AbsolutePath = "/etc/podferry/pki/node.key"
    nodes: dict[str, ListenAddress] = {}


class Move(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Pods that move.

    Attributes:
        freeze_budget_s: how long sending the last difference of the memory may take in the freeze.
        freeze_deadline_s: after this long in the freeze a move is given up, and the pod runs on.
        rounds: of the copy, after which one that does not come nearer is throttled.
        claim_deadline_s: how long the target waits for the replacement to be made by a kubelet.
        stores_dir: directory of incoming memory, in a tmpfs or on a disk.
    """

    freeze_budget_s: Seconds = 0.01
    freeze_deadline_s: Seconds = 15.0
    rounds: Rounds = 8
    claim_deadline_s: Seconds = 60.0
    stores_dir: AbsolutePath = "/run/podferry/stores"


class Metrics(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Prometheus metrics.

    Attributes:
        listen: "address:port" of the HTTP endpoint, "" for none.
    """

    listen: ListenAddress = "127.0.0.1:9847"


class Log(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Log lines on stderr, as key=value.

    Attributes:
        level: the least severe level that is written.
    """

    level: Literal["debug", "info", "warning", "error"] = "info"


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which pods podferry may act on when their annotations are silent.

    Attributes:
        managed: the answer for namespaces that are not listed.
        unmanaged_namespaces: namespaces whose pods are left alone.
    """

    managed: bool = True
    unmanaged_namespaces: tuple[str, ...] = ("kube-system",)


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that can be set on a node."""

    cri: Cri = Cri()
    service: Service = Service()
    metrics: Metrics = Metrics()
    log: Log = Log()
    policy: Policy = Policy()
    sleep: Sleep = Sleep()
    peers: Peers = Peers()
    move: Move = Move()


def load(path: Path = DEFAULT_PATH, *, required: bool = False) -> Settings:
    """Reads PATH and then, in order of name, the ``*.toml`` files in ``config.d`` beside it.

    A drop-in overrides single keys; lists are replaced, not joined.

    Args:
        path: the main file; absent means defaults unless ``required``.
        required: whether an absent file is an error.

    Raises:
        InvalidSettings: a file is unreadable or no TOML, or a key is unknown or of the wrong kind;
            the message names the file, the key and the value that was wanted.
    """
    merged: dict[str, Any] = {}
    for file in (path, *sorted((path.parent / "config.d").glob("*.toml"))):
        layer = _read(file, required=required or file != path)
        parse(layer, where=str(file))  # so that the error names this file and not the sum of all
        _merge(merged, layer)
    settings = parse(merged, where=str(path))
    if os.path.realpath(settings.cri.listen) == os.path.realpath(settings.cri.runtime):
        # Once the runtime is down its path looks stale; we would take it and call ourselves.
        raise InvalidSettings(
            f"keys cri.listen and cri.runtime are the same socket, {settings.cri.runtime!r}",
            where=str(path),
            remedy="set cri.listen to a path of podferry's own",
        )
    return settings


def parse(data: dict[str, Any], *, where: str) -> Settings:
    """Checks a parsed TOML document.

    Raises:
        InvalidSettings: naming ``where``, the key, its value and what was wanted there.
    """
    remedy = "see docs/settings.md for every key"
    _refuse_unknown(data, Settings, "", where=where, remedy=remedy)
    try:
        return msgspec.convert(data, Settings)
    except msgspec.ValidationError as error:
        raise InvalidSettings(_in_words(str(error), data), where=where, remedy=remedy) from error


def _refuse_unknown(
    data: dict[str, Any], table: type, above: str, *, where: str, remedy: str
) -> None:
    known = get_type_hints(table)
    for key, value in data.items():
        if key not in known:
            shown = f"{above}{_shown(key)[1:-1]}"
            raise InvalidSettings(
                f"key {shown} is unknown, known here are {', '.join(known)}",
                where=where,
                remedy=remedy,
            )
        if isinstance(value, dict) and issubclass(_class(known[key]), msgspec.Struct):
            _refuse_unknown(value, known[key], f"{above}{key}.", where=where, remedy=remedy)


def _class(hint: Any) -> type:
    return hint if isinstance(hint, type) else object


def _in_words(message: str, data: dict[str, Any]) -> str:
    # msgspec says "Expected `bool`, got `str` - at `$.policy.managed`"; users know keys, not `$`.
    key = message.rpartition(" - at `$.")[2].removesuffix("`").partition("[")[0]
    hint: Any = Settings
    value: Any = data
    for part in key.split("."):
        hint = get_type_hints(hint, include_extras=True)[part]
        value = value[part]
    return f"key {key}: it is {_shown(value)}, wanted is {_wanted(hint)}"


def _wanted(hint: Any) -> str:
    if get_origin(hint) is Annotated:
        return next(m.description for m in get_args(hint)[1:] if isinstance(m, msgspec.Meta)) or ""
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(repr(choice) for choice in get_args(hint))
    if get_origin(hint) is tuple:
        return "a list of strings"
    if get_origin(hint) is dict:
        return f"a table, each value {_wanted(get_args(hint)[1])}"
    return "true or false" if hint is bool else "a table"


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python prints
        return "too large"
    return text if len(text) <= LONGEST_SHOWN else text[:LONGEST_SHOWN] + "..."


def _read(path: Path, *, required: bool) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        if not required:
            return {}
        raise _unreadable(path, error, "name a file that exists") from error
    except OSError as error:
        raise _unreadable(path, error, "make it a file that root can read") from error
    except (ValueError, RecursionError) as error:
        raise InvalidSettings(f"is not TOML: {error}", where=str(path)) from error


def _unreadable(path: Path, error: OSError, remedy: str) -> InvalidSettings:
    return InvalidSettings(f"cannot be read: {error.strerror}", where=str(path), remedy=remedy)


def _merge(below: dict[str, Any], above: dict[str, Any]) -> None:
    for key, value in above.items():
        if isinstance(value, dict) and isinstance(below.get(key), dict):
            _merge(below[key], value)
        else:
            below[key] = value
