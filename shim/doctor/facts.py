# SPDX-License-Identifier: Apache-2.0
"""What probes return: plain data that travels from the probe's process as JSON."""

from __future__ import annotations

import msgspec


class Proof(msgspec.Struct, frozen=True):
    """The outcome of using a kernel feature.

    Attributes:
        works: it was seen to work.
        message: the step that failed, "" if it works.
        errno_value: the errno of that step, 0 if none.
        loaded: whether the native library, which does the proof, could be loaded.
    """

    works: bool
    message: str = ""
    errno_value: int = 0
    loaded: bool = True


class Proofs(msgspec.Struct, frozen=True):
    """Several proofs by name."""

    by_name: dict[str, Proof]


class Userfaultfd(msgspec.Struct, frozen=True):
    """userfaultfd and its UFFD_FEATURE bits."""

    proof: Proof
    features: int = 0


class SockDiag(msgspec.Struct, frozen=True):
    """The families that sock_diag lists."""

    proof: Proof
    families: frozenset[str] = frozenset()


class BpfLoad(msgspec.Struct, frozen=True):
    """Whether our programs load; ``log`` is the end of the verifier's words if not."""

    proof: Proof
    log: str = ""


class Kernel(msgspec.Struct, frozen=True):
    """uname's release and machine."""

    release: str
    machine: str


class KernelOptions(msgspec.Struct, frozen=True):
    """The kernel's build options; ``source`` is the file, "" if there is none."""

    source: str
    values: dict[str, str]


class PipeSize(msgspec.Struct, frozen=True):
    """fs.pipe-max-size, and whether this process may exceed it."""

    max_bytes: int
    sys_resource: bool


class Capabilities(msgspec.Struct, frozen=True):
    """Bit masks of /proc/self/status."""

    effective: int
    bounding: int


class Cpu(msgspec.Struct, frozen=True):
    """The processor's name and its feature flags, those that all CPUs share."""

    model: str
    flags: frozenset[str]


class Command(msgspec.Struct, frozen=True):
    """A command that was run: its path ("" if there is none), exit status and last words."""

    path: str
    status: int = 0
    output: str = ""


class CriuFeatures(msgspec.Struct, frozen=True):
    """`criu check --feature` for each feature; ``path`` is "" where there is no criu."""

    path: str
    by_name: dict[str, Command]


class Mount(msgspec.Struct, frozen=True):
    """A line of /proc/self/mounts."""

    kind: str
    path: str
    options: tuple[str, ...]


class Cgroups(msgspec.Struct, frozen=True):
    """The cgroup file systems that are mounted."""

    mounts: tuple[Mount, ...]


class Freezer(msgspec.Struct, frozen=True):
    """A child in a v2 cgroup of its own: whether it froze and thawed; ``problem`` if not tried."""

    tried: bool
    froze: bool = False
    thawed: bool = False
    problem: str = ""


class SocketFile(msgspec.Struct, frozen=True):
    """A path that should be a listening Unix socket."""

    path: str
    exists: bool
    is_socket: bool = False
    mode: int = 0
    uid: int = 0
    gid: int = 0


class Sockets(msgspec.Struct, frozen=True):
    """The runtime's socket and ours."""

    runtime: SocketFile
    ours: SocketFile


class Condition(msgspec.Struct, frozen=True):
    """A condition of the runtime's Status."""

    type: str
    status: bool
    reason: str
    message: str


class Runtime(msgspec.Struct, frozen=True):
    """What the runtime says over CRI.

    Attributes:
        socket: its path.
        problem: why there is no answer, "" if there is one.
        config: its effective CRI configuration (JSON), "" if it does not tell.
    """

    socket: str
    problem: str = ""
    name: str = ""
    version: str = ""
    conditions: tuple[Condition, ...] = ()
    config: str = ""


class RuntimeConfig(msgspec.Struct, frozen=True):
    """What in the runtime's configuration matters to us.

    Attributes:
        source: where it was read; "" if nowhere.
        problem: why it could not be read.
        binary_names: BinaryName by the name of the runtime handler.
        default_handler: the handler of pods that name none.
        restrict_oom_score_adj: None where it is not told.
        sys_resource: whether CAP_SYS_RESOURCE is in the bounding set here.
    """

    source: str
    problem: str = ""
    binary_names: dict[str, str] = {}
    default_handler: str = ""
    restrict_oom_score_adj: bool | None = None
    sys_resource: bool = True


class Kubelet(msgspec.Struct, frozen=True):
    """Kubelet on this node and the CRI endpoint it takes.

    Attributes:
        present: whether it runs or is laid out here.
        pid: of the running one, 0 if none runs.
        running: the endpoint of the running one's command line, "" if it is not said there.
        configured: the endpoint that its files give, "" if they could not be read.
        place: the file that says so, or "default".
        ours: the endpoint we serve.
        problem: why the files could not be read.
    """

    present: bool
    ours: str
    pid: int = 0
    running: str = ""
    configured: str = ""
    place: str = ""
    problem: str = ""


class Nat(msgspec.Struct, frozen=True):
    """The commands for packet filters, and whether the kernel tracks connections."""

    commands: dict[str, str]
    conntrack: bool


class Directory(msgspec.Struct, frozen=True):
    """A directory of the service: the nearest existing path above it and its file system."""

    path: str
    on: str
    kind: str


class Directories(msgspec.Struct, frozen=True):
    """The service's run and state directories."""

    run: Directory
    state: Directory
