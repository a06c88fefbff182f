# SPDX-License-Identifier: Apache-2.0
"""Reads from the host's apt what a second Debian needs: a mirror and the proxies."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

SOURCES = Path("/etc/apt")


def debian_mirror(root: Path = SOURCES) -> str:
    """The URI of the host's Debian mirror; "" (debootstrap's own default) if it has none.

    The environment's PODFERRY_DEBIAN_MIRROR comes first. Security and vendors' archives do not
    count: a mirror is where the path ends in "/debian".
    """
    chosen = os.environ.get("PODFERRY_DEBIAN_MIRROR", "")
    if chosen:
        return chosen
    for uri in _uris(root):
        if re.fullmatch(r"(https?|file|copy):/.*/debian/?", uri):
            return uri
    return ""


def proxies() -> dict[str, str]:
    """The proxies that apt is configured with, as environment variables."""
    keys = ["HTTP", "Acquire::http::Proxy", "HTTPS", "Acquire::https::Proxy"]
    try:
        said = subprocess.run(
            ["apt-config", "shell", *keys], capture_output=True, text=True, check=False
        ).stdout
    except FileNotFoundError:
        return {}
    found = re.findall(r"^(HTTPS?)='(.*)'$", said, re.MULTILINE)
    return {f"{name.lower()}_proxy": value for name, value in found if value}


def _uris(root: Path) -> Iterator[str]:
    parts = root / "sources.list.d"
    one_line = [root / "sources.list", *sorted(parts.glob("*.list"))]
    for path in [*sorted(parts.glob("*.sources")), *one_line]:
        try:
            text = path.read_text("utf-8", "replace")
        except OSError:
            continue
        if path.suffix == ".sources":
            for line in re.findall(r"^URIs:(.*)$", text, re.MULTILINE | re.IGNORECASE):
                yield from line.split()
        else:
            yield from re.findall(r"^deb\s+(?:\[[^]]*\]\s+)?(\S+)", text, re.MULTILINE)
