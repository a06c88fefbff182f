# SPDX-License-Identifier: Apache-2.0
"""Reads a file as hashed blocks, leaving out its holes."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from shim._native_tree import WINDOW_BYTES, BlockReader
from shim.core.trees import BLOCK_BYTES, HASH_BYTES
from shim.errors import NativeError

ZERO = bytes(HASH_BYTES)


def windows(fd: int, size_bytes: int) -> Iterator[tuple[int, int]]:
    """Offsets and lengths of the pieces of a file that may hold data, aligned to blocks."""
    at = 0
    while at < size_bytes:
        try:
            data = os.lseek(fd, at, os.SEEK_DATA)
            hole = os.lseek(fd, data, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return  # a hole up to the end, or it became shorter
            raise
        at = max(at, data - data % BLOCK_BYTES)
        end = min(size_bytes, count(hole) * BLOCK_BYTES)
        while at < end:
            length = min(WINDOW_BYTES, end - at)
            yield at, length
            at += length


def count(size_bytes: int) -> int:
    """How many blocks a file has."""
    return -(-size_bytes // BLOCK_BYTES)


def hashes_of(reader: BlockReader, fd: int, size_bytes: int) -> bytes:
    """The hashes of all blocks of a file, zeros for holes and blocks of zeros.

    Raises:
        OSError: it cannot be read.
    """
    found = bytearray(count(size_bytes) * HASH_BYTES)
    for offset, length in windows(fd, size_bytes):
        got = read(reader, fd, offset, length)
        first = offset // BLOCK_BYTES * HASH_BYTES
        used = count(got) * HASH_BYTES
        found[first : first + used] = reader.hashes[:used]
    return bytes(found)


def read(reader: BlockReader, fd: int, offset: int, length: int) -> int:
    """`BlockReader.read`, its failure as the kernel's.

    Raises:
        OSError: the file cannot be read.
    """
    try:
        return reader.read(fd, offset, length)
    except NativeError as error:
        raise OSError(error.errno_value, error.what) from error
