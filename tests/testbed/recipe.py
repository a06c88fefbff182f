# SPDX-License-Identifier: Apache-2.0
"""Says what the node image is made of; its tags are hashes of what stands here and in image/."""

from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
REPOSITORY = HERE.parent.parent
CONTEXT = HERE / "image"
# These modules run inside the image too: they make the test images from its own files.
CONTEXT_MODULES = (HERE / "oci.py", HERE / "images.py")

SUITE = "forky"  # the first Debian release with CRIU 4.2, which runs on kernels from 6.14 on
BASE_NAME = "podferry-testbed-base"
NODE_NAME = "podferry-testbed-node"

PACKAGES = (
    # a node
    "containerd",
    "runc",
    "criu",
    "containernetworking-plugins",
    "systemd",
    "systemd-sysv",
    "dbus",
    "iproute2",
    "iptables",
    "nftables",
    "conntrack",
    "ethtool",
    "procps",
    "kmod",
    # podferry, built and run
    "python3",
    "python3-venv",
    "python3-dev",
    "python3-pip",
    "build-essential",
    "cmake",
    "clang",
    "llvm",
    "libbpf-dev",
    "bpftool",
    "libelf-dev",
    "libssl-dev",
    "libxxhash-dev",
    "liblz4-dev",
    "libzstd-dev",
    "pkg-config",
    # workloads and instruments
    "busybox-static",
    "redis-server",
    "nginx-light",
    "memcached",
    "postgresql-18",
    "docker-registry",
    "iperf3",
    "iputils-ping",
    "netcat-openbsd",
    "curl",
    "tcpdump",
    "strace",
    "jq",
    "xz-utils",
)

# Not needed by any test and a third of the tree.
TRIM = (
    "usr/share/doc",
    "usr/share/man",
    "usr/share/info",
    "usr/share/locale",
    "var/cache/apt",
    "var/lib/apt/lists",
    "var/lib/postgresql",
    "usr/share/cmake-*/Help",
    "usr/lib/python3*/test",
)

BUILD_REQUIREMENTS = ("setuptools>=77", "wheel", "cffi>=1.17", "pip")


def requirements() -> list[str]:
    """What is pip-installed beside podferry in a node: its own dependencies and its build's."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))
    return sorted({*project["project"]["dependencies"], *BUILD_REQUIREMENTS})


def base_tag() -> str:
    """The tag of the image that holds the packages."""
    return f"{BASE_NAME}:{_digest([SUITE, *PACKAGES, *TRIM])}"


def node_tag() -> str:
    """The tag of the image that nodes start from."""
    files = [*sorted(p for p in CONTEXT.rglob("*") if p.is_file()), *CONTEXT_MODULES]
    contents = [f"{p.name}\n{p.read_text('utf-8')}" for p in files]
    return f"{NODE_NAME}:{_digest([base_tag(), *requirements(), *contents])}"


def _digest(parts: list[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]
