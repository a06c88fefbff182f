# SPDX-License-Identifier: Apache-2.0
"""What CRIU is asked: mounts, dump and restore requests, and the registers that are corrected."""

from __future__ import annotations

import errno
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from cri_proto import criu_core_pb2 as core
from cri_proto import criu_rpc_pb2 as rpc
from shim.checkpoint import cores, request
from shim.core import launch, mounts
from shim.core.launch import Anatomy, Purpose, Sleeper, Stdio
from shim.errors import InvalidMessage, Refused

MOUNTINFO = r"""438 406 0:115 / / rw,relatime - overlay overlay rw,lowerdir=/a:/b
440 438 0:142 / /proc rw,nosuid - proc proc rw
441 438 0:143 / /dev rw,nosuid - tmpfs tmpfs rw,size=65536k
446 441 0:29 /kubepods /sys/fs/cgroup/cpu ro,nosuid master:118 - cgroup cgroup rw,cpu
455 438 254:0 /pods/a\040b /etc/a\040b rw,relatime shared:3 master:4 - ext4 /dev/vda rw
460 440 0:142 /sys /proc/sys ro - proc proc rw
461 440 0:143 /null /proc/kcore ro - tmpfs tmpfs rw
"""
INTERRUPTED = (1 << 64) - errno.EINTR
NANOSLEEP, READ, RESTART = 35, 0, 219


def anatomy() -> Anatomy:
    """A container as a node would show it."""
    return Anatomy(
        container_id="c1",
        init_pid=4711,
        rootfs="/bundle/rootfs",
        mounts=mounts.parse(MOUNTINFO),
        stdio=(
            Stdio(1, "pipe:[7]", "/proc/4711/fd/1"),
            Stdio(2, "pipe:[8]", "/proc/4711/fd/2"),
        ),
        joined={"net": "/proc/9/ns/net", "ipc": "/proc/9/ns/ipc", "uts": "/proc/9/ns/uts"},
    )


def test_mountinfo_is_read_with_its_escapes_and_tags() -> None:
    parsed = mounts.parse(MOUNTINFO)
    assert [one.point for one in parsed][4] == "/etc/a b"
    assert parsed[4].root == "/pods/a b"
    assert parsed[4].tags == ("shared:3", "master:4")
    assert parsed[3].kind == "cgroup"


@pytest.mark.parametrize("line", ["", "1 2 0:1 / /", "1 2 0:1 / / rw - ext4"])
def test_what_is_no_mountinfo_is_refused(line: str) -> None:
    with pytest.raises(InvalidMessage):
        mounts.parse(line or "\x00")


def test_every_mount_but_the_root_and_proc_is_ours_and_comes_from_the_clone() -> None:
    parsed = mounts.parse(MOUNTINFO)
    assert mounts.external_for_dump(parsed) == [
        "mnt[/dev]:podferry:/dev",
        "mnt[/sys/fs/cgroup/cpu]:podferry:/sys/fs/cgroup/cpu",
        "mnt[/etc/a b]:podferry:/etc/a b",
        "mnt[/proc/kcore]:podferry:/proc/kcore",
    ]
    assert mounts.external_for_restore(parsed, "/clone")[0] == "mnt[podferry:/dev]:/clone/dev"


def test_a_mount_point_used_twice_is_found() -> None:
    parsed = mounts.parse(MOUNTINFO)
    assert mounts.hidden(parsed) == []
    assert mounts.hidden([*parsed, replace(parsed[2], mount_id=999)]) == ["/dev"]


def test_a_dump_says_what_must_never_be_left_out() -> None:
    what = launch.dump(anatomy(), "/images", Purpose.SLEEP)
    sent = rpc.criu_req.FromString(request.encode(what))
    assert (sent.type, sent.opts.pid, sent.opts.images_dir_fd) == (rpc.DUMP, 4711, -1)
    assert sent.opts.network_lock == rpc.SKIP
    assert sent.opts.manage_cgroups_mode == rpc.IGNORE
    assert sent.opts.tcp_established
    assert not sent.opts.freeze_cgroup
    assert not sent.opts.leave_running
    assert what.enter == ("/proc/9/ns/net", "/proc/9/ns/ipc", "/proc/9/ns/uts")


def test_a_copy_leaves_the_tasks_running() -> None:
    what = launch.dump(anatomy(), "/images", Purpose.COPY)
    assert rpc.criu_req.FromString(request.encode(what)).opts.leave_running


def test_a_restore_is_given_the_pipes_in_order() -> None:
    what = launch.restore(Sleeper.of(anatomy()), "/images", "/clone")
    sent = rpc.criu_req.FromString(request.encode(what))
    assert sent.type == rpc.RESTORE
    assert sent.opts.rst_sibling
    assert sent.opts.root == "/clone"
    assert [(one.key, one.fd) for one in sent.opts.inherit_fd] == [
        ("pipe:[7]", 11),
        ("pipe:[8]", 12),
    ]


def test_system_v_memory_keeps_its_namespace_out_of_what_criu_shares() -> None:
    seen = replace(anatomy(), system_v=True)
    assert "/proc/9/ns/ipc" not in launch.dump(seen, "/images", Purpose.SLEEP).enter
    what = launch.restore(Sleeper.of(seen), "/images", "/clone")
    sent = rpc.criu_req.FromString(request.encode(what))
    assert "/proc/9/ns/ipc" not in what.enter
    assert [(one.ns, one.ns_file) for one in sent.opts.join_ns] == [("ipc", "/proc/9/ns/ipc")]


def test_a_restore_elsewhere_has_the_other_nodes_places_and_the_images_names() -> None:
    there = replace(
        anatomy(),
        container_id="c2",
        stdio=(Stdio(1, "pipe:[70]", ""), Stdio(2, "pipe:[80]", "")),
        joined={"net": "/proc/90/ns/net", "ipc": "/proc/90/ns/ipc", "uts": "/proc/90/ns/uts"},
        lsm_profile="other",
    )
    what = launch.restore_elsewhere(Sleeper.of(anatomy()), there, "/images", "/clone", lazy=True)
    assert what.enter == ("/proc/90/ns/net", "/proc/90/ns/ipc", "/proc/90/ns/uts")
    assert what.options["inherit_fd"] == [
        {"key": "pipe:[7]", "fd": 11},
        {"key": "pipe:[8]", "fd": 12},
    ]
    assert "mnt[podferry:/etc/a b]:/clone/etc/a b" in what.options["external"]
    assert what.options["lsm_profile"] == "apparmor:other"
    assert what.options["lazy_pages"] is True


def test_what_a_container_has_and_its_replacement_lacks_is_named() -> None:
    full = anatomy()
    there = replace(
        full,
        mounts=tuple(one for one in full.mounts if one.point != "/etc/a b"),
        stdio=full.stdio[:1],
        joined={"net": "/proc/9/ns/net", "uts": "/proc/9/ns/uts"},
    )
    with pytest.raises(Refused) as caught:
        launch.restore_elsewhere(Sleeper.of(full), there, "/images", "/clone")
    for lacking in ("/etc/a b", "standard error", "ipc namespace"):
        assert lacking in caught.value.what


def test_a_dump_for_a_move_kills_and_leaves_memory_out_if_asked() -> None:
    options = launch.dump(anatomy(), "/images", Purpose.MOVE, lazy=True).options
    assert (options["leave_running"], options["lazy_pages"]) == (False, True)


def test_answers_of_criu() -> None:
    note = rpc.criu_resp(type=rpc.NOTIFY, success=True, notify={"script": "pre-dump"})
    assert request.decode(note.SerializeToString()) is None
    done = rpc.criu_resp(type=rpc.RESTORE, success=True, restore={"pid": 12})
    answer = request.decode(done.SerializeToString())
    assert answer is not None
    assert (answer.success, answer.pid) == (True, 12)
    with pytest.raises(InvalidMessage):
        request.decode(b"\xff\xff")


def image(number: int, result: int = INTERRUPTED, mode: int = 1) -> bytes:
    """A core image with the registers of a thread, and a field that this project does not know."""
    registers = {"ax": result, "orig_ax": number, "ip": 1000, "mode": mode}
    entry = core.core_entry(mtype=1, thread_info={"gpregs": registers})
    body = entry.SerializeToString() + b"\x9a\x06\x02hi"  # field 99, length-delimited
    return struct.pack("<III", 0x54564319, 0x55053847, len(body)) + body


def test_a_timed_call_is_made_again_and_nothing_else_of_the_image_changes() -> None:
    after = cores.corrected_image(image(NANOSLEEP))
    assert after is not None
    length = struct.unpack_from("<I", after, 8)[0]
    entry = core.core_entry.FromString(after[12 : 12 + length])
    assert (entry.thread_info.gpregs.ax, entry.thread_info.gpregs.ip) == (NANOSLEEP, 998)
    assert b"\x9a\x06\x02hi" in after


@pytest.mark.parametrize(
    "untouched",
    [image(READ), image(NANOSLEEP, result=0), image(RESTART), image(NANOSLEEP, mode=2)],
    ids=["another call", "finished", "already restarted", "32 bits"],
)
def test_other_threads_are_left_alone(untouched: bytes) -> None:
    assert cores.corrected_image(untouched) is None


def test_a_foreign_file_is_refused_and_left(tmp_path: Path) -> None:
    path = tmp_path / "core-1.img"
    path.write_bytes(b"something else")
    with pytest.raises(InvalidMessage, match="core-1"):
        cores.make_calls_again(tmp_path)
    assert path.read_bytes() == b"something else"
