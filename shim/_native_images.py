# SPDX-License-Identifier: Apache-2.0
"""The C library's work on sets of CRIU's images."""

from __future__ import annotations

from pathlib import Path

from shim._native import binding, call


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
