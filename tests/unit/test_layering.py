# SPDX-License-Identifier: Apache-2.0
"""Who may import whom, and the form that every module has."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MOST_LINES = 500

# Which parts of `shim` a part may import besides itself. Dependencies point inward to core.
MAY_IMPORT = {
    "core": {"errors"},
    "errors": set(),
    "logs": set(),
    "settings": {"errors"},
    "_native": {"errors", "_native_ffi"},
    "runtime": {"core", "errors"},
    "rules": {"core", "errors", "runtime"},
    "server": {"core", "errors", "rules", "runtime", "settings"},
    "doctor": {"errors", "settings", "_native", "installer"},
    "installer": {"errors", "settings"},
    "cli": {"core", "errors", "logs", "settings", "server", "doctor", "installer", "_native"},
}
A_DRIVER_MAY = {"core", "errors", "settings", "runtime", "_native"}
NOT_IN_CORE = {"grpc", "asyncio", "os", "pathlib", "socket", "time", "google", "cri_proto",
               "threading", "subprocess", "logging", "random", "datetime"}  # fmt: skip


@cache
def modules() -> dict[str, Path]:
    """Every module of the project's packages by its dotted name, generated ones left out."""
    found = {}
    for top in ("shim", "cri_proto"):
        # The installer is linked into the package from the root of the repository.
        for folder in (ROOT / top, *(p for p in (ROOT / top).iterdir() if p.is_symlink())):
            for path in folder.rglob("*.py"):
                if not re.search(r"_pb2(_grpc)?\.py$", path.name):
                    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
                    found[name.removesuffix(".__init__")] = path
    return found


def imports(path: Path, module: str) -> set[str]:
    """Every module that a file imports, also inside functions, by its full name."""
    found = set()
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: -node.level + 1 or None] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            found |= {f"{base}.{alias.name}" for alias in node.names} | {base}
    return found


def parts(names: set[str]) -> set[str]:
    """The parts of `shim` that imported names belong to."""
    known = set(MAY_IMPORT) | {"_native_ffi"}
    return {name.split(".")[1] for name in names if name.startswith("shim.")} & known


def test_there_is_something_to_look_at() -> None:
    assert {"shim.core.rules", "shim.installer.plan", "cri_proto.generate"} <= set(modules())


@pytest.mark.parametrize("module", sorted(modules()))
def test_a_module_imports_only_what_its_part_may(module: str) -> None:
    path = modules()[module]
    if module == "shim" or not module.startswith("shim."):
        assert not parts(imports(path, module)), f"{module} must not know of parts of shim"
        return
    part = module.split(".")[1]
    assert parts(imports(path, module)) <= MAY_IMPORT.get(part, A_DRIVER_MAY) | {part}


@pytest.mark.parametrize("module", sorted(m for m in modules() if m.startswith("shim.core")))
def test_core_decides_and_does_nothing(module: str) -> None:
    used = {name.split(".")[0] for name in imports(modules()[module], module)}
    assert not used & NOT_IN_CORE


def test_only_one_module_touches_the_native_library() -> None:
    users = {m for m, path in modules().items() if "shim._native_ffi" in imports(path, m)}
    assert users == {"shim._native"}


@pytest.mark.parametrize("module", sorted(modules()))
def test_a_module_says_in_its_first_sentence_what_it_owns(module: str) -> None:
    text = modules()[module].read_text("utf-8")
    docstring = ast.get_docstring(ast.parse(text))
    assert docstring, f"{module} has no docstring"
    first = " ".join(docstring.partition("\n\n")[0].split())
    assert re.match(r"[A-Z`\"].*\.(\s|$)", first), f"{module}: {first!r} is no sentence"


@pytest.mark.parametrize("module", sorted(modules()))
def test_a_module_is_short_and_has_its_licence(module: str) -> None:
    lines = modules()[module].read_text("utf-8").splitlines()
    assert len(lines) <= MOST_LINES
    assert "# SPDX-License-Identifier: Apache-2.0" in lines[:2]


@pytest.mark.parametrize("module", sorted(modules()))
def test_no_name_says_nothing(module: str) -> None:
    assert not re.search(r"manager|helper|utils?$|misc|common$", module.rpartition(".")[2])


@pytest.mark.parametrize("module", sorted(modules()))
def test_functions_are_short(module: str) -> None:
    tree = ast.parse(modules()[module].read_text("utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            text = {
                line
                for inner in ast.walk(node)
                if isinstance(inner, ast.Constant) and isinstance(inner.value, str)
                for line in range(inner.lineno + 1, (inner.end_lineno or 0) + 1)
            }  # of docstrings and of files that are written
            length = (node.end_lineno or 0) - node.lineno + 1 - len(text)
            assert length <= 50, f"{module}.{node.name} has {length} lines"
