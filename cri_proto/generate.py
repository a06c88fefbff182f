# SPDX-License-Identifier: Apache-2.0
"""Generates the stubs beside this file from ``protos/``, or proves that they are current.

    python -m cri_proto.generate           writes them
    python -m cri_proto.generate --check   exit status 1 and their names if any differs

The generator is grpcio-tools in the version that pyproject.toml pins: another version writes
other bytes.
"""

from __future__ import annotations

import sys
import tempfile
from importlib.resources import files
from pathlib import Path

HERE = Path(__file__).parent
PROTOS = HERE / "protos"
WITH_SERVICES = ("control", "peer")


def generate(target: Path) -> list[str]:
    """Writes every stub into ``target`` and returns their file names.

    Raises:
        RuntimeError: protoc refused a file; its own words are on stderr.
    """
    from grpc_tools import protoc

    include = str(files("grpc_tools") / "_proto")
    for proto in sorted(PROTOS.glob("*.proto")):
        outputs = [f"--python_out={target}", f"--pyi_out={target}"]
        if proto.stem in WITH_SERVICES:
            outputs.append(f"--grpc_python_out={target}")
        arguments = ["protoc", f"-I{PROTOS}", f"-I{include}", *outputs, str(proto)]
        if protoc.main(arguments) != 0:
            raise RuntimeError(f"protoc failed on {proto.name}")
    for stub in target.glob("*_pb2_grpc.py"):
        # protoc writes absolute imports of its own package root; ours is cri_proto.
        name = stub.name.removesuffix("_grpc.py")
        text = stub.read_text("utf-8")
        stub.write_text(text.replace(f"import {name} as", f"from cri_proto import {name} as"))
    return sorted(p.name for p in target.glob("*_pb2*.py*"))


def stale() -> list[str]:
    """Names the stubs that differ from what ``protos/`` gives, missing ones included."""
    with tempfile.TemporaryDirectory() as scratch:
        fresh = Path(scratch)
        names = generate(fresh)
        present = {p.name for p in HERE.glob("*_pb2*.py*")}
        wrong = {n for n in names if n not in present or _differ(HERE / n, fresh / n)}
        return sorted(wrong | (present - set(names)))


def _differ(one: Path, other: Path) -> bool:
    return one.read_bytes() != other.read_bytes()


def main() -> int:
    """Command line of this module."""
    if sys.argv[1:] == ["--check"]:
        wrong = stale()
        for name in wrong:
            print(f"cri_proto/{name} is not what protos/ gives; run python -m cri_proto.generate")
        return 1 if wrong else 0
    if sys.argv[1:]:
        print(__doc__, file=sys.stderr)
        return 2
    print("\n".join(generate(HERE)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
