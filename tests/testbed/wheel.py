# SPDX-License-Identifier: Apache-2.0
"""Builds podferry's wheel with the node image's own tools, once per state of the source tree."""

from __future__ import annotations

import hashlib
import io
import shutil
import tarfile
from pathlib import Path

import docker

from tests.testbed import engine, recipe, run
from tests.testbed.errors import ImageFailed

CACHE = recipe.REPOSITORY / "build" / "testbed"
# What a wheel is made of; docs and tests are not.
PARTS = ("shim", "cri_proto", "native", "bpf", "installer", "cmake")
FILES = ("setup.py", "pyproject.toml", "CMakeLists.txt", "MANIFEST.in", "README.md", "LICENSE")
SKIP_DIRECTORIES = {"__pycache__", "build", ".mypy_cache", ".ruff_cache", ".pytest_cache"}
SKIP_SUFFIXES = {".so", ".o", ".a", ".pyc"}
COMMAND = (
    "cd /source && mkdir -p /wheel && /opt/podferry/bin/pip wheel --quiet --no-deps --no-index "
    "--no-build-isolation --wheel-dir=/wheel ."
)
BUILD_DEADLINE_S = 600
KEPT = 8


def ensure(client: docker.DockerClient, image: str) -> Path:
    """The wheel of the tree as it stands.

    Raises:
        ImageFailed: it does not build; carries the end of what the build said.
    """
    source = _source()
    digest = hashlib.sha256(image.encode() + source).hexdigest()[:16]
    place = CACHE / digest
    found = sorted(place.glob("*.whl"))
    if not found:
        with engine.locked("wheel"):
            found = sorted(place.glob("*.whl")) or [_build(client, image, source, place)]
            _forget_oldest()
    return found[0]


def _forget_oldest() -> None:
    places = sorted(CACHE.iterdir(), key=lambda path: path.stat().st_mtime)
    for place in places[:-KEPT]:
        shutil.rmtree(place)


def _build(client: docker.DockerClient, image: str, source: bytes, place: Path) -> Path:
    engine.say(f"building podferry's wheel into {place}")
    container = client.containers.create(
        image,
        entrypoint=["/bin/sh", "-c", COMMAND],
        network_mode="none",
        labels=run.labels(),
    )
    try:
        container.put_archive("/", source)
        container.start()
        status = int(container.wait(timeout=BUILD_DEADLINE_S)["StatusCode"])
        if status != 0:
            said = bytes(container.logs(tail=400)).decode("utf-8", "replace")
            raise ImageFailed(f"the wheel does not build: {said}")
        chunks, _ = container.get_archive("/wheel")
        with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as tar:
            (name,) = [one for one in tar.getnames() if one.endswith(".whl")]
            member = tar.extractfile(name)
            assert member is not None
            place.mkdir(parents=True, exist_ok=True)
            partial = place / "partial"
            partial.write_bytes(member.read())
            return partial.rename(place / Path(name).name)
    finally:
        container.remove(force=True)


def _source() -> bytes:
    """The tree as a tar that is the same for the same files."""
    paths = [recipe.REPOSITORY / name for name in FILES]
    for part in PARTS:
        for path in (recipe.REPOSITORY / part).rglob("*"):
            inside = path.relative_to(recipe.REPOSITORY).parts
            if path.suffix not in SKIP_SUFFIXES and not SKIP_DIRECTORIES & set(inside):
                paths.append(path)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path in sorted(path for path in paths if path.is_file() or path.is_symlink()):
            entry = tarfile.TarInfo(f"source/{path.relative_to(recipe.REPOSITORY)}")
            if path.is_symlink():  # shim/installer is a link to installer/
                entry.type, entry.linkname = tarfile.SYMTYPE, str(path.readlink())
                tar.addfile(entry)
                continue
            content = path.read_bytes()
            entry.size = len(content)
            entry.mode = path.stat().st_mode & 0o777
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
