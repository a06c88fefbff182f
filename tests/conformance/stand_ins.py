# SPDX-License-Identifier: Apache-2.0
"""Makes stand-ins for the images that critest asks for, from the files of the node it runs on.

It runs inside a node, beside the testbed's oci.py and images.py, with the standard library only:

    python3 stand_ins.py REGISTRY DIRECTORY

writes DIRECTORY/images.tar, in which every image is named as REGISTRY serves it, and prints those
names. What each image must do is known from critest's specs (cri-tools v1.36 and later).
"""

from __future__ import annotations

import platform
import sys
from pathlib import Path

try:
    from tests.testbed import images, oci
except ImportError:  # inside a node
    import images  # type: ignore[import-not-found, no-redef]
    import oci  # type: ignore[import-not-found, no-redef]

HERE = Path(__file__).parent
E2E = "e2e-test-images"
STAGING = "k8s-staging-cri-tools"
ARCHITECTURE = oci.ARCHITECTURES.get(platform.machine(), platform.machine())

# registry.k8s.io and k8s.gcr.io are mirrored by one registry, so one name serves both.
PAUSE = "pause:3.9"
BUSYBOX = f"{E2E}/busybox:1.29-2"

# One user of each form that ImageStatus must tell apart.
USERS = {
    "test-image-user-uid": "1002",
    "test-image-user-username": "www-data",
    "test-image-user-uid-group": "1003:1004",
    "test-image-user-username-group": "www-data:1004",
}
# Tags with contents of their own, and tags of one content.
OWN_CONTENT = ("1:latest", "2:latest", "3:latest", "latest:latest", "tag:test", "tag:all")
SAME_CONTENT = ("tags:1", "tags:2", "tags:3")

PASSWD = images.PASSWD + (
    b"www-data:x:33:33:www-data:/var/www:/bin/false\n"
    b"default-user:x:1000:1000::/home/default-user:/bin/sh\n"
)
GROUP = images.GROUP + (
    b"www-data:x:33:\ndefault-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n"
)


def shell_layer() -> bytes:
    """What differs from the testbed's busybox: the shell, users, two programs busybox lacks."""
    busybox = Path("/usr/bin/busybox").read_bytes()
    return images.programs_layer(
        ["/usr/bin/pgrep", "/usr/bin/ipcs"],
        [
            oci.Entry("usr/bin/sh", (HERE / "sh").read_bytes()),
            # A path that a spec masks must not be a link to what everything else is.
            oci.Entry("usr/bin/ls", busybox),
            oci.Entry("etc/passwd", PASSWD, mode=0o644),
            oci.Entry("etc/group", GROUP, mode=0o644),
        ],
    )


def web_layer(port: int) -> bytes:
    """nginx on that port, with its pid where specs look for it."""
    conf = images.NGINX_CONF.replace(b"listen 80;", f"listen {port};".encode())
    conf = conf.replace(b"/tmp/nginx.pid", b"/var/run/nginx.pid")
    assert f"listen {port};".encode() in conf and b"/var/run/nginx.pid" in conf
    return images.programs_layer(
        ["/usr/sbin/nginx"],
        [
            *(oci.Entry(path) for path in ("etc/nginx", "var/log", "var/log/nginx", "usr/share")),
            oci.Entry("var/run", link="/run"),
            oci.Entry("etc/nginx/nginx.conf", conf, mode=0o644),
            oci.Entry("srv/index.html", b"podferry test page\n", mode=0o644),
        ],
    )


def escalation_layer() -> bytes:
    """A program of root's with the set-user-ID bit that tells whose rights it got."""
    return images.programs_layer(
        ["/usr/bin/id"],
        [oci.Entry("effective-uid", Path("/usr/bin/id").read_bytes(), mode=0o4755)],
    )


def build_all(registry: str) -> list[oci.Image]:
    """Every stand-in, named as the registry serves it."""
    base, shell = images.base_layer(), shell_layer()
    pause = oci.layer(
        [
            oci.Entry("pause", (HERE / "pause").read_bytes()),
            # Removing this image by its id must not take the node's own pause with it.
            oci.Entry("stand-in", b"pause 3.9\n", mode=0o644),
        ]
    )

    def image(name: str, *command: str, top: bytes | None = None, user: str = "") -> oci.Image:
        layers = (base, shell) if top is None else (base, shell, top)
        return oci.Image(f"{registry}/{name}", layers, command or ("sh",), images.PATH, user)

    def marked(text: str) -> bytes:
        return oci.layer([oci.Entry("stand-in", text.encode(), mode=0o644)])

    tell_uid = 'echo "Effective uid: $(/effective-uid -u)"'
    return [
        oci.Image(f"{registry}/{PAUSE}", (pause,), ("/pause",)),
        image(BUSYBOX),
        image(f"{E2E}/nginx:1.14-2", "nginx", top=web_layer(80)),
        # A spec looks for the server's name in its log.
        image(f"{E2E}/httpd:2.4.39-4", "sh", "-c", "echo httpd; exec nginx", top=web_layer(80)),
        image(f"{E2E}/nonewprivs:1.3", "sh", "-c", tell_uid, top=escalation_layer()),
        image(f"{STAGING}/hostnet-nginx-{ARCHITECTURE}:latest", "nginx", top=web_layer(12003)),
        image(f"{STAGING}/test-image-predefined-group:latest", user="1000"),
        *(image(f"{STAGING}/{name}:latest", user=user) for name, user in USERS.items()),
        *(image(f"{STAGING}/test-image-{tag}", top=marked(tag)) for tag in OWN_CONTENT),
        *(image(f"{STAGING}/test-image-{tag}", top=marked("tags")) for tag in SAME_CONTENT),
    ]


def main() -> int:
    """Writes the archive and prints the names."""
    registry, target = sys.argv[1], Path(sys.argv[2])
    made = build_all(registry)
    oci.write_archive(target / "images.tar", made)
    print("\n".join(image.name for image in made))
    return 0


if __name__ == "__main__":
    sys.exit(main())
