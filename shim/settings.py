# SPDX-License-Identifier: Apache-2.0
"""The node's settings: one TOML file with drop-ins, read once at start, every key checked."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from shim.errors import InvalidSettings

DEFAULT_PATH = Path("/etc/podferry/config.toml")

Seconds = Annotated[float, msgspec.Meta(gt=0, le=86400)]
AbsolutePath = Annotated[str, msgspec.Meta(pattern="^/.+")]


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
    connection_age_s: Annotated[float, msgspec.Meta(ge=1, le=3600)] = 10.0


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


class Metrics(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Prometheus metrics.

    Attributes:
        listen: "address:port" of the HTTP endpoint, "" for none.
    """

    listen: Annotated[str, msgspec.Meta(pattern=r"^$|^.+:[0-9]{1,5}$")] = "127.0.0.1:9847"


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
    files = [path] if required or path.exists() else []
    files += sorted((path.parent / "config.d").glob("*.toml"))
    for file in files:
        layer = _read(file)
        parse(layer, where=str(file))  # so that the error names this file and not the sum of all
        _merge(merged, layer)
    return parse(merged, where=str(path))


def parse(data: dict[str, Any], *, where: str) -> Settings:
    """Checks a parsed TOML document.

    Raises:
        InvalidSettings: naming ``where``, the key and what was wanted there.
    """
    try:
        return msgspec.convert(data, Settings)
    except msgspec.ValidationError as error:
        raise InvalidSettings(
            _in_words(str(error), data), where=where, remedy="see docs/settings.md for every key"
        ) from error


def _in_words(message: str, data: dict[str, Any]) -> str:
    # msgspec says "Expected `bool`, got `str` - at `$.policy.managed`"; users know keys, not `$`.
    wanted, _, place = message.partition(" - at `$")
    key = place.strip("`.")
    if not key:
        return wanted
    value: Any = data
    for part in key.partition("[")[0].split("."):
        value = value.get(part) if isinstance(value, dict) else None
    shown = "" if value is None or isinstance(value, dict) else f" (it is {value!r})"
    return f"key {key}: {wanted}{shown}"


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InvalidSettings(
            f"cannot be read: {error.strerror}", where=str(path), remedy="make it readable to root"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidSettings(f"is not TOML: {error}", where=str(path)) from error


def _merge(below: dict[str, Any], above: dict[str, Any]) -> None:
    for key, value in above.items():
        if isinstance(value, dict) and isinstance(below.get(key), dict):
            _merge(below[key], value)
        else:
            below[key] = value
