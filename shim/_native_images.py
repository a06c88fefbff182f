# SPDX-License-Identifier: Apache-2.0
"""The C library's work on sets of CRIU's images."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

from shim._native import binding, call
from shim.errors import InvalidMessage

# native/src/left_out.h
_HEAD = struct.Struct("=QqQ")
_REGION_BYTES = 16


def make_view(images: Path, view: Path) -> None:
    """Makes a directory of links to images whose pagemaps CRIU reads quickly in a lazy restore.

    CRIU reads a pagemap entry by entry, and passes over those of lazy pages. In the view neighbours
    of that kind are one entry. A restore that is not lazy would misplace memory by it.

    Args:
        images: the complete set; the pager needs that.
        view: made if it is not there, on the same file system; may be made again.

    Raises:
        NativeError: a pagemap is damaged, or the file system refuses.
    """
    call(binding()[1].pf_images_view, bytes(images), bytes(view))


def shorten(images: Path) -> None:
    """The same in the directory itself, for images that nobody restores but lazily.

    The pagemaps as they were stay beside the short ones.

    Raises:
        NativeError: as `make_view`.
    """
    call(binding()[1].pf_images_shorten, bytes(images))


def add_left_out(images: Path, left_out: Path, pids: Mapping[int, int]) -> int:
    """Adds to pagemaps, as lazy pages, what CRIU was kept from dumping; how many pages.

    Args:
        images: of a dump that has ended.
        left_out: what was written down meanwhile; empty if CRIU has dumped everything.
        pids: the processes whose memory is sent, as CRIU and this service count, to their pids in
            the image.

    Raises:
        NativeError, InvalidMessage: it does not go together with what was dumped; nobody may
            restore the image.
    """
    concerned = _pids_in(left_out)
    unknown = concerned - set(pids)
    if unknown:
        raise InvalidMessage(
            f"CRIU was kept from dumping processes that are not sent: {sorted(unknown)}",
            where=str(left_out),
        )
    ffi, lib = binding()
    pages = ffi.new("uint64_t *")
    for pid in sorted(concerned):
        call(lib.pf_images_add_left_out, bytes(images), bytes(left_out), pid, pids[pid], pages)
    return int(pages[0])


def _pids_in(left_out: Path) -> set[int]:
    data, at, found = left_out.read_bytes(), 0, set()
    while at + _HEAD.size <= len(data):
        _, pid, count = _HEAD.unpack_from(data, at)
        at += _HEAD.size + count * _REGION_BYTES
        found.add(pid)
    if at < len(data):
        raise InvalidMessage("what CRIU was kept from is cut off", where=str(left_out))
    return found
