# SPDX-License-Identifier: Apache-2.0
"""Why a container cannot be dumped or restored, in plain words, and what to do about each.

Preflight finds causes before anything is stopped, shim/core/criu_errors.py finds them in what CRIU
says; both speak of the same cause with the same words.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cause:
    """One reason.

    Attributes:
        name: short and stable, for metrics and scripts.
        reason: what is wrong, for the owner of the pod.
        remedy: what to change.
    """

    name: str
    reason: str
    remedy: str


def _table(*causes: Cause) -> dict[str, Cause]:
    return {one.name: one for one in causes}


CAUSES = _table(
    Cause(
        "io_uring",
        "a process uses io_uring, whose rings CRIU cannot read",
        "switch io_uring off in the program (libuv: UV_USE_IO_URING=0; nginx, MariaDB and others "
        "have a setting) or on the node (sysctl kernel.io_uring_disabled=2)",
    ),
    Cause(
        "mptcp",
        "a socket speaks MPTCP, which CRIU cannot dump; Go listens with it by default",
        "set GODEBUG=multipathtcp=0 for Go programs, or sysctl net.mptcp.enabled=0 in the pod",
    ),
    Cause(
        "socket_kind",
        "a socket is of a kind that CRIU cannot dump (SCTP, vsock, XDP, AF_ALG, raw or others)",
        "close it before the pod sleeps, or leave this pod unmanaged",
    ),
    Cause(
        "terminal",
        "the container has a terminal, whose other end is outside of it",
        "start it without `tty: true`",
    ),
    Cause(
        "user_namespace",
        "the pod runs in a user namespace of its own",
        "set hostUsers: true, or leave this pod unmanaged",
    ),
    Cause(
        "shared_pid_namespace",
        "the container shares its pid namespace with the pod or the node",
        "remove shareProcessNamespace and hostPID from the pod",
    ),
    Cause(
        "nested_namespace",
        "a process has made namespaces of its own inside the container (a sandboxed browser, a "
        "container in the container)",
        "switch the program's own sandbox off, or leave this pod unmanaged",
    ),
    Cause(
        "exec_session",
        "a process runs in the container that its init did not start: kubectl exec or a probe",
        "end the session; a probe ends by itself and podferry tries again",
    ),
    Cause(
        "deleted_file",
        "a file was deleted while open and is too large to keep in the image",
        "truncate it or restart the program; 64 MiB is the limit",
    ),
    Cause(
        "deleted_linked_file",
        "a file was deleted while open and still has another name on its file system",
        "reopen or restart the program",
    ),
    Cause(
        "outside_file",
        "a process has a file open that is not in the container's own file systems",
        "close it; it was most likely inherited at the start of the container",
    ),
    Cause(
        "device",
        "a process has a device open that CRIU cannot dump",
        "GPUs and other devices cannot sleep; leave this pod unmanaged",
    ),
    Cause(
        "anonymous_file",
        "a process has a kernel object open that CRIU cannot dump (userfaultfd, fanotify, perf "
        "events, BPF, seccomp notification, KVM)",
        "close it before the pod sleeps, or leave this pod unmanaged",
    ),
    Cause(
        "secret_memory",
        "a process has memory that nobody else can read (memfd_secret)",
        "switch that protection off, or leave this pod unmanaged",
    ),
    Cause(
        "traced",
        "a process is traced by a debugger",
        "detach the debugger (gdb, strace)",
    ),
    Cause(
        "uprobes",
        "a tracing tool has put probes into a process (uprobes)",
        "stop the tool while the pod sleeps, or leave this pod unmanaged",
    ),
    Cause(
        "outside_unix_socket",
        "a unix socket is connected to a process outside of the container",
        "close that connection, or leave this pod unmanaged",
    ),
    Cause(
        "hidden_mount",
        "a mount point is mounted over, so what lies below cannot be opened",
        "remove one of the two volume mounts",
    ),
    Cause(
        "fuse",
        "a FUSE file system was mounted inside the container",
        "mount it as a volume of the pod",
    ),
    Cause(
        "watched_path",
        "an inotify watch may be on a path that CRIU cannot find again",
        "switch file watching off in the program",
    ),
    Cause(
        "no_rlimit_capability",
        "this node has no CAP_SYS_RESOURCE, without which the limits of a process of another user "
        "than root cannot be read",
        "give podferry and containerd CAP_SYS_RESOURCE",
    ),
    Cause(
        "no_capability",
        "CRIU lacks a capability",
        "run containerd and podferry as root with all capabilities",
    ),
    Cause(
        "address_gone",
        "an address that a socket was bound to does not exist or is taken now",
        "keep the pod's address; see `podferry doctor`",
    ),
    Cause(
        "file_gone",
        "a file that a process had open is not there any more, or has another size",
        "do not change the pod's files or image while it sleeps",
    ),
    Cause(
        "pid_taken",
        "a process id of the container is taken",
        "try again; another process of the pod's pid namespace has it",
    ),
    Cause(
        "no_room",
        "there is no room for the images",
        "free memory (tmpfs) or disk space, or set [sleep] images_dir to another place",
    ),
    Cause(
        "no_memory",
        "there is not enough memory to bring the container back",
        "free memory on the node, or raise the pod's memory limit",
    ),
    Cause(
        "no_criu",
        "CRIU is not installed, or cannot be started",
        "install criu 4.0 or newer (`podferry doctor` says how)",
    ),
    Cause(
        "old_kernel",
        "the kernel lacks a feature that CRIU needs",
        "`podferry doctor` names the feature; use a newer kernel",
    ),
    Cause(
        "cpu_features",
        "the image was made on a CPU with features that this one lacks",
        "move only to nodes with at least the same CPU features",
    ),
    Cause(
        "images_damaged",
        "the images are damaged or not complete",
        "the container starts anew; look at the disk or memory that held them",
    ),
    Cause(
        "timeout",
        "the processes could not be stopped in time",
        "a process hangs in the kernel (state D): look at its storage or network file system",
    ),
    Cause(
        "seccomp",
        "a seccomp filter cannot be read or set again",
        "run podferry with CAP_SYS_ADMIN, or run the pod with seccompProfile Unconfined",
    ),
    Cause(
        "corked_socket",
        "a datagram socket holds an unfinished packet",
        "try again; it is sent in a moment",
    ),
    Cause(
        "unknown",
        "CRIU failed for a reason that podferry does not know",
        "look at the log line above and report it with `podferry doctor --json`",
    ),
)
