# SPDX-License-Identifier: Apache-2.0
"""Builds podferry: CMake makes the native library and the BPF objects, cffi binds them."""

from __future__ import annotations

import subprocess
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()


class CMakeThenCffi(build_ext):
    """Runs CMake before the cffi extension is compiled, which links CMake's static library."""

    def run(self) -> None:
        """Configures and builds build/native.

        Raises:
            subprocess.CalledProcessError: CMake, the C compiler or clang failed; its own
                output, printed above, says why.
        """
        build_dir = ROOT / "build" / "native"
        build_dir.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            ["cmake", "-S", str(ROOT), "-B", str(build_dir), "-DCMAKE_BUILD_TYPE=RelWithDebInfo"],
            check=True,
        )
        subprocess.run(["cmake", "--build", str(build_dir), "--parallel"], check=True)
        super().run()


setup(
    packages=find_packages(include=["shim", "shim.*", "cri_proto", "cri_proto.*"]),
    package_data={
        "": ["py.typed", "*.proto", "*.pyi"],
        "shim.installer": ["files/*", "files/**/*"],
    },
    cffi_modules=["native/build_ffi.py:ffibuilder"],
    cmdclass={"build_ext": CMakeThenCffi},
)
