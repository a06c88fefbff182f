# SPDX-License-Identifier: Apache-2.0
"""Reads systemd units and environment files as far as needed to know a service's command line.

Rules from systemd.unit(5), systemd.service(5) and systemd.exec(5): drop-ins by file name, a
directory of higher rank hides the same name below, an empty assignment resets a list, environment
files override ``Environment=``.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field

from shim.installer.flag_edit import Region
from shim.installer.tree import Tree

SEARCH_PATH = (
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
)
VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


@dataclass(frozen=True)
class Assignment:
    """One ``NAME=value`` of a file; ``region`` is the raw text behind the sign."""

    name: str
    value: str
    region: Region
    section: str = ""


@dataclass(frozen=True)
class Service:
    """What a service's unit files say together.

    Attributes:
        files: the unit and its drop-ins, in the order systemd reads them.
        arguments: the command line with variables put in; the program comes first.
        regions: every part of a file that reaches the command line.
    """

    files: tuple[str, ...]
    arguments: tuple[str, ...]
    regions: tuple[Region, ...]


@dataclass
class _Reading:
    commands: list[Assignment] = field(default_factory=list)
    variables: dict[str, Assignment] = field(default_factory=dict)
    environment_files: list[str] = field(default_factory=list)


def read_service(tree: Tree, name: str) -> Service | None:
    """Reads a service and its drop-ins, None if the node has no such unit."""
    unit = next((f"{d}/{name}" for d in SEARCH_PATH if tree.read(f"{d}/{name}") is not None), None)
    if unit is None:
        return None
    files = (unit, *drop_ins(tree, name))
    reading = _Reading()
    for file in files:
        _read_unit(reading, file, tree.read(file) or b"")
    for file in reading.environment_files:
        for assignment in read_environment(tree, file):
            reading.variables[assignment.name] = assignment
    return _service(files, reading)


def drop_ins(tree: Tree, name: str) -> list[str]:
    """The drop-ins of a unit in the order of their names."""
    found: dict[str, str] = {}
    for directory in SEARCH_PATH:
        for file in tree.names(f"{directory}/{name}.d") or ():
            if file.endswith(".conf"):
                found.setdefault(file, f"{directory}/{name}.d/{file}")
    return [found[file] for file in sorted(found)]


def read_environment(tree: Tree, path: str) -> list[Assignment]:
    """The assignments of an environment file; none if it is absent."""
    content = tree.read(path)
    return [] if content is None else list(assignments(content.decode("utf-8", "replace"), path))


def assignments(text: str, path: str) -> Iterator[Assignment]:
    """Every assignment of a unit or environment file, continued lines joined."""
    section, start = "", 0
    while start < len(text):
        end = _line_end(text, start)
        line = text[start:end]
        stripped = line.strip()
        if not stripped or stripped[0] in "#;":
            end = min(text.find("\n", start) + 1 or len(text), len(text))
        elif stripped.startswith("["):
            section = stripped.strip("[]")
        elif "=" in line:
            name, _, raw = line.partition("=")
            region = Region(path, start + len(name) + 1, end, name.strip())
            yield Assignment(name.strip(), _unquote(raw), region, section)
        start = end


def _line_end(text: str, start: int) -> int:
    """The end of a line with what continues it; comments in between do not end it."""
    is_continued = False
    while True:
        end = text.find("\n", start) + 1
        if end == 0:
            return len(text)
        line = text[start:end].strip()
        if not (is_continued and line.startswith(("#", ";"))):
            is_continued = line.endswith("\\")
        if not is_continued:
            return end
        start = end


def _unquote(raw: str) -> str:
    first, *more = re.split(r"\\\r?\n", raw)
    lines = [first, *(re.sub(r"^(\s*[#;][^\n]*\n)+", "", line) for line in more)]
    value = " ".join(lines).strip()
    if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
        return value[1:-1].replace('\\"', '"')
    return value


def _read_unit(reading: _Reading, file: str, content: bytes) -> None:
    for found in assignments(content.decode("utf-8", "replace"), file):
        if found.section != "Service":
            continue
        raw = found.value
        if found.name == "ExecStart":
            reading.commands = [*reading.commands, found] if raw else []
        elif found.name == "EnvironmentFile":
            path = raw.lstrip("-")
            reading.environment_files = [*reading.environment_files, path] if raw else []
        elif found.name == "Environment":
            if not raw:
                reading.variables.clear()
            _add_variables(reading, found)


def _add_variables(reading: _Reading, found: Assignment) -> None:
    # The value was unquoted as a whole; `A=b c` is one variable if the line was quoted.
    whole = re.fullmatch(r"(\w+)=(.*)", found.value, re.DOTALL)
    text = found.value if '"' in found.value or "'" in found.value else None
    pairs = _split(text) if text else [found.value] if whole else []
    if not text and whole and not _is_quoted(found):
        pairs = found.value.split()
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if sign:
            region = Region(found.region.path, found.region.start, found.region.end, name)
            reading.variables[name] = Assignment(name, value, region)


def _is_quoted(found: Assignment) -> bool:
    # _unquote took two characters off; spaces around the value are not counted in either.
    return found.region.end - found.region.start - len(found.value) >= 2


def _service(files: tuple[str, ...], reading: _Reading) -> Service:
    if not reading.commands:
        return Service(files, (), ())
    command = reading.commands[-1]  # several are allowed for oneshot services only
    regions = [Region(command.region.path, command.region.start, command.region.end, "ExecStart")]
    for match in VARIABLE.finditer(command.value):
        variable = reading.variables.get(match[1] or match[2])
        if variable is not None:
            regions.append(variable.region)
    # Twice, since microk8s and others put variables into variables; systemd itself does it once.
    text = _expand(_expand(command.value, reading), reading)
    return Service(files, tuple(_split(text)), tuple(dict.fromkeys(regions)))


def _expand(text: str, reading: _Reading) -> str:
    def value(match: re.Match[str]) -> str:
        found = reading.variables.get(match[1] or match[2])
        return found.value if found is not None else ""

    return VARIABLE.sub(value, text)


def _split(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:  # an odd quote: systemd would complain too, but flags are still readable
        return text.split()
