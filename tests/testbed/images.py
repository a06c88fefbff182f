# SPDX-License-Identifier: Apache-2.0
"""Says which test images there are, and makes them from the files of the machine it runs on.

It runs inside the node image while that is built, beside oci.py, with the standard library only:

    python3 images.py DIRECTORY
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

try:
    from tests.testbed import oci
except ImportError:  # inside the node image
    import oci  # type: ignore[import-not-found, no-redef]

REGISTRY = "podferry.test"
PAUSE = f"{REGISTRY}/pause:1"
BUSYBOX = f"{REGISTRY}/busybox:1"
REDIS = f"{REGISTRY}/redis:1"
NGINX = f"{REGISTRY}/nginx:1"
MEMCACHED = f"{REGISTRY}/memcached:1"
IPERF = f"{REGISTRY}/iperf3:1"
PYTHON = f"{REGISTRY}/python-workload:1"
POSTGRES = f"{REGISTRY}/postgres:1"
ALL = (PAUSE, BUSYBOX, REDIS, NGINX, MEMCACHED, IPERF, PYTHON, POSTGRES)

PATH = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
MERGED = ("bin", "sbin", "lib", "lib64")
HERE = Path(__file__).parent

PASSWD = b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"
GROUP = b"root:x:0:\nnogroup:x:65534:\n"
NGINX_CONF = b"""daemon off;
error_log stderr;
pid /tmp/nginx.pid;
worker_processes 1;
events { worker_connections 1024; }
http {
    access_log off;
    client_body_temp_path /tmp/body;
    proxy_temp_path /tmp/proxy;
    fastcgi_temp_path /tmp/fastcgi;
    uwsgi_temp_path /tmp/uwsgi;
    scgi_temp_path /tmp/scgi;
    server { listen 80; root /srv; }
}
"""


# The cluster is made at the start; AS_POSTGRES may say how else the server is run.
POSTGRES_COMMAND = """cd /var/lib/postgresql
su postgres -c '{bin}/initdb -D data -A trust --no-locale -E UTF8 --no-sync' >/dev/null
echo 'host all all all trust' >>data/pg_hba.conf
exec ${AS_POSTGRES:-su postgres -c} "exec {bin}/postgres -D data -h '*' -k /tmp"
"""


def base_layer() -> bytes:
    """A root file system with busybox as every usual command."""
    busybox = Path("/usr/bin/busybox")
    if not busybox.exists():
        busybox = Path("/bin/busybox")
    applets = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True)
    entries = [
        *(oci.Entry(path) for path in ("usr", "etc", "var", "srv", "dev", "proc", "sys", "run")),
        *(oci.Entry(f"usr/{path}") for path in MERGED),
        *(oci.Entry(path, link=f"usr/{path}") for path in MERGED),
        oci.Entry("root", mode=0o700),
        oci.Entry("tmp", mode=0o1777),
        oci.Entry("etc/passwd", PASSWD, mode=0o644),
        oci.Entry("etc/group", GROUP, mode=0o644),
        oci.Entry("usr/bin/busybox", busybox.read_bytes()),
    ]
    names = set(applets.stdout.split()) - {"busybox"}
    entries += [oci.Entry(f"usr/bin/{name}", link="busybox") for name in sorted(names)]
    return oci.layer(entries)


def programs_layer(binaries: Iterable[str], extra: Iterable[oci.Entry] = ()) -> bytes:
    """Those programs with the shared libraries that ``ldd`` names, and what else they need."""
    entries = [*extra]
    for binary in binaries:
        entries.append(_copy(Path(binary)))
        entries += [_copy(library) for library in libraries(Path(binary))]
    return oci.layer(entries)


def libraries(binary: Path) -> list[Path]:
    """The shared libraries of a program, its loader included; [] for a static one."""
    said = subprocess.run(["ldd", binary], capture_output=True, text=True, check=False)
    return [Path(one) for one in re.findall(r"(?:=> |^\s*)(/\S+) \(0x", said.stdout, re.MULTILINE)]


def tree(root: Path, *, skip: frozenset[str] = frozenset()) -> Iterator[oci.Entry]:
    """A directory of this machine as it stands, without directories of those names."""
    for path in sorted(root.iterdir()):
        if path.name in skip:
            continue
        if path.is_symlink() or path.is_file():
            if path.exists():
                yield _copy(path)
        elif path.is_dir():
            yield oci.Entry(str(path).lstrip("/"))
            yield from tree(path, skip=skip)


def _copy(path: Path) -> oci.Entry:
    # /lib may be a link to /usr/lib on the machine and is one in our images.
    place = path.parent.resolve() / path.name
    return oci.Entry(str(place).lstrip("/"), path.read_bytes(), mode=path.stat().st_mode & 0o7777)


def _python_layer() -> bytes:
    library = Path(f"/usr/lib/python{sys.version_info.major}.{sys.version_info.minor}")
    modules = sorted((library / "lib-dynload").glob("*.so"))
    needed = {one for module in modules for one in libraries(module)}
    skip = frozenset({"__pycache__", "ensurepip", "idlelib", "tkinter", "pydoc_data", "test"})
    interpreter = Path("/usr/bin/python3").resolve()
    return programs_layer(
        [str(interpreter)],
        [
            oci.Entry(str(library).lstrip("/")),
            *tree(library, skip=skip),
            *(_copy(one) for one in needed),
            oci.Entry("usr/bin/python3", link=interpreter.name),
            oci.Entry("workload.py", (HERE / "workload.py").read_bytes(), mode=0o644),
        ],
    )


def _postgres_home() -> Path:
    (home,) = Path("/usr/lib/postgresql").iterdir()
    return home


def _postgres_layer() -> bytes:
    """Server and initdb; the database is made in the pod, by the user postgres (1000)."""
    home = _postgres_home()
    user = b"postgres:x:1000:1000::/var/lib/postgresql:/bin/sh\n"
    return programs_layer(
        [str(home / "bin/postgres"), str(home / "bin/initdb")],
        [
            oci.Entry("usr/lib/postgresql"),
            *tree(home / "lib", skip=frozenset({"bitcode", "pgxs"})),
            oci.Entry("usr/share"),
            oci.Entry("usr/share/postgresql"),
            *tree(Path("/usr/share/postgresql") / home.name, skip=frozenset({"man", "extension"})),
            *tree(Path("/usr/share/postgresql") / home.name / "extension"),
            *tree(Path("/usr/share/zoneinfo/Etc")),
            oci.Entry("var/lib"),
            oci.Entry("var/lib/postgresql", uid=1000, mode=0o700),
            oci.Entry("etc/passwd", PASSWD + user, mode=0o644),
            oci.Entry("etc/group", GROUP + b"postgres:x:1000:\n", mode=0o644),
        ],
    )


def build_all() -> list[oci.Image]:
    """Every test image."""
    base = base_layer()
    pause = oci.layer([oci.Entry("pause", (HERE / "pause").read_bytes())])
    nginx = [oci.Entry("etc/nginx"), oci.Entry("etc/nginx/nginx.conf", NGINX_CONF, mode=0o644)]
    nginx += [oci.Entry("srv/index.html", b"podferry test page\n", mode=0o644)]
    # nginx opens its compiled-in log before it has read its configuration.
    nginx += [oci.Entry("var/log"), oci.Entry("var/log/nginx"), oci.Entry("usr/share")]
    redis = programs_layer(["/usr/bin/redis-server", "/usr/bin/redis-cli"])

    start_postgres = POSTGRES_COMMAND.replace("{bin}", str(_postgres_home() / "bin"))

    def over_base(name: str, top: bytes, *command: str, user: str = "") -> oci.Image:
        return oci.Image(name, (base, top), command, PATH, user)

    return [
        oci.Image(PAUSE, (pause,), ("/pause",)),
        oci.Image(BUSYBOX, (base,), ("sh",), PATH),
        over_base(REDIS, redis, "redis-server", "--save", "", "--protected-mode", "no"),
        over_base(NGINX, programs_layer(["/usr/sbin/nginx"], nginx), "nginx"),
        over_base(MEMCACHED, programs_layer(["/usr/bin/memcached"]), "memcached", "-u", "nobody"),
        over_base(IPERF, programs_layer(["/usr/bin/iperf3"]), "iperf3", "-s"),
        over_base(PYTHON, _python_layer(), "python3", "/workload.py"),
        over_base(POSTGRES, _postgres_layer(), "sh", "-c", start_postgres),
    ]


def main() -> int:
    """Writes one archive with all of them."""
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    oci.write_archive(target / "images.tar", build_all())
    return 0


if __name__ == "__main__":
    sys.exit(main())
