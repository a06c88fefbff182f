# SPDX-License-Identifier: Apache-2.0
"""Builds podferry: CMake makes the native library and the BPF objects, cffi binds them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
# Programs that CMake builds and the package carries in shim/bin.
PROGRAMS = ("podferry-runtime", "podferry-pager", "podferry-left-out.so")


class CMakeThenCffi(build_ext):
    """Runs CMake before the cffi extension is compiled, which links CMake's static library."""

    def run(self) -> None:
        """Builds libpodferry.a and compiles the extension against it.

        Raises:
            subprocess.CalledProcessError: CMake, the C compiler or clang failed; its own
                output, printed above, says why.
        """
        build_dir = self._build_dir()
        self._forget_another_machines_build(build_dir)
        subprocess.run(["cmake", "-S", str(ROOT), "-B", str(build_dir)], check=True)
        targets = [name.removesuffix(".so") for name in PROGRAMS]
        jobs = str(len(os.sched_getaffinity(0)))
        build = ["cmake", "--build", str(build_dir), "--parallel", jobs]
        subprocess.run([*build, "--target", "podferry", *targets], check=True)
        self._take_programs(build_dir)
        library = build_dir / "libpodferry.a"
        for extension in self.extensions:
            extension.extra_objects.append(str(library))
            extension.depends.append(str(library))
        super().run()

    def _take_programs(self, build_dir: Path) -> None:
        target = (ROOT if self.inplace else Path(self.build_lib)) / "shim" / "bin"
        target.mkdir(parents=True, exist_ok=True)
        for name in PROGRAMS:
            (built,) = (build_dir / "native").glob(f"*/{name}")
            # Beside its place and renamed: the old one may be running.
            shutil.copy2(built, target / f"{name}.new")
            (target / f"{name}.new").replace(target / name)

    def _build_dir(self) -> Path:
        """Gives build/native, or a temporary directory where the sources cannot be written to."""
        chosen = os.environ.get("PODFERRY_BUILD_DIR")
        if chosen:
            return Path(chosen).resolve()
        if os.access(ROOT, os.W_OK):
            return ROOT / "build" / "native"
        return Path(self.build_temp).resolve() / "native"

    @staticmethod
    def _forget_another_machines_build(build_dir: Path) -> None:
        # The tree may be shared with a container of another release: objects of its compiler must
        # not be linked here, and CMake's cache must not name its tools.
        release = Path("/etc/os-release")
        here = f"{ROOT}\n{release.read_text('utf-8') if release.exists() else sys.platform}"
        stamp = build_dir / "built-on"
        if (build_dir / "CMakeCache.txt").exists() and (
            not stamp.exists() or stamp.read_text("utf-8") != here
        ):
            shutil.rmtree(build_dir)
        build_dir.mkdir(parents=True, exist_ok=True)
        stamp.write_text(here, "utf-8")


setup(
    packages=find_packages(include=["shim", "shim.*", "cri_proto", "cri_proto.*"]),
    package_data={
        "": ["py.typed", "*.proto", "*.pyi"],
        "shim.installer": ["files/*", "files/**/*"],
    },
    cffi_modules=["native/build_ffi.py:ffibuilder"],
    cmdclass={"build_ext": CMakeThenCffi},
    # cffi compiles against Python's stable interface, so one wheel serves every later Python.
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
