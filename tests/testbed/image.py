# SPDX-License-Identifier: Apache-2.0
"""Builds the node image, once per recipe: debootstrap, import, wheels, one Dockerfile."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from http import HTTPStatus
from pathlib import Path

import docker
from docker.errors import APIError, BuildError, ImageNotFound

from tests.testbed import apt, engine, recipe
from tests.testbed.errors import ImageFailed

WORK_DIR = engine.STATE_DIR / "image"


def ensure(client: docker.DockerClient, *, rebuild: bool = False) -> str:
    """The tag of the node image, which is built if the recipe has changed or ``rebuild`` is set.

    Raises:
        ImageFailed: debootstrap, pip or the engine refused; carries the end of what it said.
    """
    tag = recipe.node_tag()
    if rebuild or not _exists(client, tag):
        with engine.locked("image"):
            if rebuild or not _exists(client, recipe.base_tag()):
                _build_base(client)
            if rebuild or not _exists(client, tag):
                _build_node(client, tag)
                remove_old(client)
    return tag


def remove_old(client: docker.DockerClient, *, everything: bool = False) -> list[str]:
    """Removes the images of recipes that are no longer current, or all of them."""
    keep = set() if everything else {recipe.node_tag(), recipe.base_tag()}
    removed = []
    for name in (recipe.NODE_NAME, recipe.BASE_NAME):
        for image in client.images.list(name=name):
            for tag in set(image.tags) - keep:
                try:
                    client.images.remove(tag)
                except APIError as error:
                    if error.status_code != HTTPStatus.CONFLICT:  # a node still runs from it
                        raise
                else:
                    removed.append(tag)
    return removed


def _exists(client: docker.DockerClient, tag: str) -> bool:
    try:
        client.images.get(tag)
    except ImageNotFound:
        return False
    return True


def _build_base(client: docker.DockerClient) -> None:
    if os.geteuid() != 0:
        raise ImageFailed("building the node image needs root", remedy="run it with sudo")
    if shutil.which("debootstrap") is None:
        engine.install("debootstrap", "debian-archive-keyring")
    WORK_DIR.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=WORK_DIR, prefix="root-") as scratch:
        root = Path(scratch) / "root"
        _debootstrap(root)
        for pattern in recipe.TRIM:
            for path in root.glob(pattern):
                shutil.rmtree(path)
                path.mkdir()
        engine.say(f"importing the tree as {recipe.base_tag()}")
        repository, _, version = recipe.base_tag().partition(":")
        _import(client, root, repository, version)


def _debootstrap(root: Path) -> None:
    mirror = apt.debian_mirror()
    scripts = Path("/usr/share/debootstrap/scripts")
    argv = [
        "debootstrap",
        "--variant=minbase",
        f"--include={','.join(recipe.PACKAGES)}",
        recipe.SUITE,
        str(root),
        mirror,
    ]
    if not (scripts / recipe.SUITE).exists():
        # An older debootstrap does not know the suite's name; sid's script serves every new one.
        argv.append(str(scripts / "sid"))
    engine.say(f"debootstrap of Debian {recipe.SUITE}: about two minutes")
    done = subprocess.run(
        argv,
        env=os.environ | apt.proxies(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        log = root / "debootstrap" / "debootstrap.log"
        said = log.read_text("utf-8", "replace") if log.exists() else ""
        raise ImageFailed(
            f"debootstrap failed: {done.stdout[-1500:]}{done.stderr[-500:]}{said[-1500:]}",
            where=mirror,
            remedy="set PODFERRY_DEBIAN_MIRROR to a Debian mirror that this machine reaches",
        )


def _import(client: docker.DockerClient, root: Path, repository: str, version: str) -> None:
    # tar knows every attribute of a root file system (capabilities of files, hard links).
    with subprocess.Popen(
        ["tar", "-C", str(root), "--numeric-owner", "--xattrs", "-cf", "-", "."],
        stdout=subprocess.PIPE,
    ) as tar:
        assert tar.stdout is not None
        client.api.import_image_from_stream(tar.stdout, repository=repository, tag=version)
    if tar.returncode != 0:
        raise ImageFailed(f"tar ended with status {tar.returncode}", where=str(root))


def _build_node(client: docker.DockerClient, tag: str) -> None:
    engine.say(f"building {tag}")
    with tempfile.TemporaryDirectory(prefix="podferry-wheels-") as scratch:
        wheels = Path(scratch)
        _download_wheels(client, wheels)
        context = _context(wheels)
    try:
        client.images.build(
            fileobj=context,
            custom_context=True,
            buildargs={"BASE": recipe.base_tag()},
            tag=tag,
            rm=True,
            forcerm=True,
            network_mode="none",
        )
    except BuildError as error:
        said = "".join(str(line.get("stream", "")) for line in error.build_log)
        raise ImageFailed(f"{error.msg}: {said[-3000:]}", where=str(recipe.CONTEXT)) from error


def _download_wheels(client: docker.DockerClient, target: Path) -> None:
    """Fetches with the host's pip, which knows the host's index, for the image's Python."""
    said = client.containers.run(
        recipe.base_tag(),
        ["python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
        remove=True,
        network_mode="none",
    )
    argv = [sys.executable, "-m", "pip", "download", "--quiet", f"--dest={target}"]
    argv += [f"--python-version={said.decode().strip()}", "--only-binary=:all:"]
    done = subprocess.run(
        [*argv, *recipe.requirements()], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise ImageFailed(f"pip download failed: {done.stderr[-2000:]}")


def _context(wheels: Path) -> io.BytesIO:
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as tar:
        for path in sorted(recipe.CONTEXT.iterdir()):
            tar.add(path, arcname=path.name)
        for path in recipe.CONTEXT_MODULES:
            tar.add(path, arcname=f"modules/{path.name}")
        for wheel in sorted(wheels.iterdir()):
            tar.add(wheel, arcname=f"wheels/{wheel.name}")
        listing = "\n".join(recipe.requirements()).encode()
        entry = tarfile.TarInfo("requirements.txt")
        entry.size = len(listing)
        tar.addfile(entry, io.BytesIO(listing))
    context.seek(0)
    return context
