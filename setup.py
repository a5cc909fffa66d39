# SPDX-License-Identifier: BSD-3-Clause
"""Builds the compiled core from src/. What the package is called and needs stands in pyproject.toml.

Environment variables, read at build time only:

SVDFAST_OPENMP=0    build without OpenMP, single-threaded, even where the compiler has it.
SVDFAST_DEBUG=1     bounds checks in Cython code, assertions in C, no optimisation.
SVDFAST_SANITIZE=1  AddressSanitizer, UndefinedBehaviorSanitizer and bounds checks (GCC). Python then has to be run with
                    LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)" and
                    ASAN_OPTIONS=detect_leaks=0, as the interpreter itself is built without.
SVDFAST_COVERAGE=1  line tracing for coverage of .pyx files (slow; Python 3.11 only).
SOURCE_DATE_EPOCH   the time of every file in sdist and wheel. Two builds with the same one, by the same tools, have equal bytes.
"""

import gzip
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.sdist import sdist

DEBUG = os.environ.get("SVDFAST_DEBUG") == "1"
SANITIZE = os.environ.get("SVDFAST_SANITIZE") == "1"
COVERAGE = os.environ.get("SVDFAST_COVERAGE") == "1"
OPENMP = os.environ.get("SVDFAST_OPENMP") != "0"

DIRECTIVES = {
    "language_level": 3,
    "boundscheck": DEBUG or SANITIZE,
    "wraparound": False,
    "initializedcheck": DEBUG or SANITIZE,
    "cdivision": True,
    "embedsignature": False,
    "linetrace": COVERAGE,
}

# GCC 12 turns loops into vector instructions only from -O3 on. errno and trapping would keep sqrt and ?: from it;
# -ffast-math would change results, and linking with it the user's whole process. -g0, as Python's own flags may ask for debugging
# information, which names the folder of the build.
C_FLAGS_UNIX = ["-O0", "-g"] if DEBUG else ["-O3", "-g0", "-fno-math-errno", "-fno-trapping-math"]
if SANITIZE:
    C_FLAGS_UNIX = ["-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
# MSVC knows `restrict` from C11 on, and takes comments for the system's own encoding where it is not told.
C_FLAGS_MSVC = [*(["/Od", "/Zi"] if DEBUG else ["/O2"]), "/std:c11", "/utf-8"]

MACROS = [("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")]
if COVERAGE:
    MACROS += [("CYTHON_TRACE", "1"), ("CYTHON_TRACE_NOGIL", "1"), ("CYTHON_USE_SYS_MONITORING", "0")]


class BuildExt(build_ext):
    """Adds the flags of the compiler that was found, and OpenMP where a program with it builds and runs."""

    def finalize_options(self):
        super().finalize_options()
        if self.parallel is None:  # extensions at once: one for each CPU
            self.parallel = True

    def build_extensions(self):
        msvc = self.compiler.compiler_type == "msvc"
        flags = list(C_FLAGS_MSVC if msvc else C_FLAGS_UNIX)
        openmp = "/openmp" if msvc else "-fopenmp"
        link = []
        if OPENMP and self._runs_with(openmp):
            flags.append(openmp)
            link = [] if msvc else [openmp]
        if SANITIZE:
            link = [*link, "-fsanitize=address,undefined"]
        for extension in self.extensions:
            extension.extra_compile_args = flags
            extension.extra_link_args = link
        super().build_extensions()

    def _runs_with(self, flag):
        program = "#include <omp.h>\nint main(void) { return omp_get_max_threads() > 0 ? 0 : 1; }\n"
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "openmp.c"
            source.write_text(program)
            try:
                objects = self.compiler.compile([str(source)], output_dir=folder, extra_postargs=[flag])
                self.compiler.link_executable(
                    objects, "openmp", output_dir=folder,
                    extra_postargs=[] if self.compiler.compiler_type == "msvc" else [flag],
                )
                found = subprocess.run([str(Path(folder) / "openmp")], timeout=60).returncode == 0
            except Exception as error:  # whatever a compiler raises: then there is no OpenMP
                print(f"OpenMP was not found ({error}): building single-threaded.", file=sys.stderr)
                return False
        return found


class Sdist(sdist):
    """An archive that depends on its files' names, modes and bytes and on SOURCE_DATE_EPOCH, not on who packs it, where and when."""

    def make_archive(self, base_name, format, root_dir=None, base_dir=None, owner=None, group=None):
        if format != "gztar":
            return super().make_archive(base_name, format, root_dir, base_dir, owner, group)
        now = int(os.environ.get("SOURCE_DATE_EPOCH", time.time()))

        def plain(entry):
            entry.mtime, entry.uid, entry.gid, entry.uname, entry.gname = now, 0, 0, "", ""
            entry.mode = 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
            return entry

        name = f"{base_name}.tar.gz"
        with (
            open(name, "wb") as raw,
            gzip.GzipFile("", "wb", fileobj=raw, mtime=now) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
        ):
            archive.add(base_dir, filter=plain)  # which goes through folders in order of names
        return name


def check_compiler():
    """Ends with one line that says what to install, instead of a compiler's errors. On Windows setuptools has such a line."""
    if os.name != "posix":
        return
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
    install = (
        "apt install build-essential python3-dev (Debian, Ubuntu), dnf install gcc python3-devel (Fedora), "
        "xcode-select --install (macOS)"
    )
    if shutil.which(compiler) is None:
        sys.exit(f"svdfast needs a C compiler, and {compiler!r} was not found: {install}")
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        sys.exit(f"svdfast needs the headers of Python, and Python.h was not found: {install}")


check_compiler()

FOLDERS = ["products", "loops", "engine", "platform"]


def extension(module, source, *more, depends=()):
    return Extension(
        f"svdfast.{module}",
        [f"src/{source}", *(f"src/{path}" for path in more)],
        include_dirs=[f"src/{folder}" for folder in FOLDERS],
        define_macros=MACROS,
        depends=[f"src/{path}" for path in depends],
    )


LISTS = [f"loops/{name}.h" for name in ("elementwise", "activations", "cells", "losses", "sparse", "updates", "windows")]
LOOPS = [*LISTS, "loops/elementwise_types.h", "loops/elementwise_loops.h"]
SANITIZERS = "platform/sanitize.h"
TIMING = "platform/timing.h"

setup(
    ext_modules=cythonize(
        [
            extension(
                "_elementwise", "loops/_elementwise.pyx", "loops/elementwise.c",
                depends=[*LOOPS, "loops/elementwise_timed.h", TIMING],
            ),
            extension(
                "_blas", "products/_blas.pyx", "products/product.c",
                depends=[
                    "products/product.h", "products/product_kernels.h", "products/convolution_kernels.h", "loops/windows.h", TIMING,
                    SANITIZERS,
                ],
            ),
            extension("cython_kernels", "cython_kernels.pyx", depends=LISTS),
            *(
                extension(f"ops.{path.stem}", f"ops/{path.name}", depends=[*LISTS, "platform/strip.h"])
                for path in sorted(Path("src/ops").glob("*.pyx"))
            ),
            extension(
                "_engine", "engine/_engine.pyx",
                depends=[*LISTS, "platform/threads.h", "platform/denormals.h", SANITIZERS],
            ),
        ],
        include_path=["."],
        compiler_directives=DIRECTIVES,
    ),
    cmdclass={"build_ext": BuildExt, "sdist": Sdist},
)
