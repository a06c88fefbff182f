# SPDX-License-Identifier: Apache-2.0
"""Describes the extension shim._native_ffi to cffi; CMake has built what it links."""

from __future__ import annotations

from pathlib import Path

from cffi import FFI

NATIVE = Path(__file__).parent

# In the order of their use of each other: cffi reads them as one text.
DECLARATIONS = (
    "error.h",
    "probe.h",
    "activity.h",
    "target.h",
    "hold.h",
    "reroute.h",
    "track.h",
    "images.h",
    "store.h",
    "stream.h",
    "tree.h",
)

ffibuilder = FFI()
for name in DECLARATIONS:
    ffibuilder.cdef((NATIVE / "decl" / name).read_text("utf-8"))

# The static library itself is added by setup.py, which knows the build directory.
ffibuilder.set_source(
    "shim._native_ffi",
    '#include "podferry.h"',
    include_dirs=[str(NATIVE / "include")],
    libraries=["bpf", "elf", "z", "ssl", "crypto", "lz4"],
)
