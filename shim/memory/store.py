# SPDX-License-Identifier: Apache-2.0
"""The page store of one container that comes: filled by a stream, sealed, read by the pager."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shim._native import binding, call

# What a store's directory is divided into; docs/wire.md.
IMAGES_NAME = "images"


@dataclass(frozen=True, slots=True)
class Counts:
    """What a store holds; both ends of a stream count alike.

    Attributes:
        processes: how many have pages.
        pages: how many have bytes.
        zero_pages: how many are known to be zero.
        file_bytes: of all parts of files that have come, also of those that came twice.
        files: how many files have begun.
        digest: over every page's place and content, and every part of a file.
    """

    processes: int
    pages: int
    zero_pages: int
    file_bytes: int
    files: int
    digest: int

    @classmethod
    def of(cls, raw: Any) -> Counts:
        """From a ``struct pf_store_counts``."""
        return cls(*(int(getattr(raw, name)) for name in cls.__slots__))


@dataclass(frozen=True, slots=True)
class Sealed:
    """What the pager will have to do.

    Attributes:
        processes: of the image.
        pages: that it places.
        zero_pages: that exist and need no placing.
        unused_pages: that came and exist no more.
        recent_pages: that it places first.
    """

    processes: int
    pages: int
    zero_pages: int
    unused_pages: int
    recent_pages: int


@dataclass(slots=True)
class PageStore:
    """A store in a directory that it makes (mode 0700; its parent must exist, it must not).

    Contents are lost with the process that made it until it is sealed; then files suffice.

    Args:
        directory: where; in a tmpfs, since it holds the pod's memory.
        quota_bytes: what may come at most, with what is kept about it (2 bytes in 1000).

    Raises:
        NativeError: EEXIST, the directory exists; ENOENT, its parent does not.
    """

    directory: Path
    quota_bytes: int
    _handle: Any = field(init=False, repr=False)

    def __post_init__(self) -> None:
        ffi, lib = binding()
        self._handle = ffi.NULL
        out = ffi.new("struct pf_store **")
        call(lib.pf_store_create, out, bytes(self.directory), self.quota_bytes)
        self._handle = ffi.gc(out[0], lib.pf_store_release)

    @property
    def images(self) -> Path:
        """The directory of CRIU's image files that have come."""
        return self.directory / IMAGES_NAME

    @property
    def handle(self) -> Any:
        """The ``struct pf_store *``, for the receiver.

        Raises:
            ValueError: it was removed.
        """
        if not self._handle:
            raise ValueError("the store was removed")
        return self._handle

    def counts(self) -> Counts:
        """What it holds now."""
        raw = binding()[0].new("struct pf_store_counts *")
        call(binding()[1].pf_store_read_counts, self.handle, raw)
        return Counts.of(raw)

    def seal(self, image_dir: Path | None = None) -> Sealed:
        """Takes no more, and writes ``PID.index`` for the pager of every process of the image.

        Milliseconds: no page is looked at. Nothing may be restored after a failure.

        Args:
            image_dir: CRIU's image, by default the one that has come.

        Raises:
            NativeError: ENODATA, a page of the image never came; ESTALE, the sender has not
                confirmed what came last; EINVAL, a pagemap is damaged or was not dumped lazily.
        """
        ffi, lib = binding()
        raw: Any = ffi.new("struct pf_store_sealed *")
        path = ffi.NULL if image_dir is None else bytes(image_dir)
        call(lib.pf_store_seal, self.handle, path, raw)
        return Sealed(*(int(getattr(raw, name)) for name in Sealed.__slots__))

    def close(self) -> None:
        """Lets go; the files stay. A second call does nothing."""
        ffi, _ = binding()
        handle, self._handle = self._handle, ffi.NULL
        if handle:
            ffi.release(handle)

    def remove(self) -> None:
        """Removes the directory with everything in it; a second call does nothing."""
        self.close()
        shutil.rmtree(self.directory, ignore_errors=True)
