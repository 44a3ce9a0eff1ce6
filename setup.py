"""Declares the extension modules; everything else is in pyproject.toml.

DISTEX_BUILD picks the build: release (default), debug (no optimisation, symbols),
trace (coverage of the Cython sources), asan (address and undefined behaviour sanitizers), fuzz (the
same, and it tells a fuzzer which branches are taken; see tests/fuzz).
"""

import os
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

MODULES = sorted(path.stem for path in Path("_core").glob("*.pyx"))
BUILD = os.environ.get("DISTEX_BUILD", "release")
POSIX = sys.platform != "win32"
JOBS = os.cpu_count() if POSIX else 0  # each in a process of its own

# the C is the same for each Python, so it is made once
C_FOLDER = Path("build", BUILD, "cython")
MADE = [C_FOLDER / "_core" / f"{name}.c" for name in MODULES]
SOURCES = [
    *Path("_core").glob("*.pyx"), *Path("distex/_core").glob("*.pxd"), Path("setup.py"),
    Path("pyproject.toml")]

SANITIZE = "-fsanitize=address,undefined"


def mtime(path: Path) -> float:
    """Return when a file was last changed; 0 if there is none."""
    return path.stat().st_mtime if path.exists() else 0


compile_args = {
    "release": ["-O3", "-fno-semantic-interposition", "-g0"] if POSIX else [],
    "debug": ["-O0", "-g"],
    "trace": ["-O1", "-DCYTHON_TRACE=1", "-DCYTHON_TRACE_NOGIL=1", "-DCYTHON_USE_SYS_MONITORING=0"],
    "asan": ["-O1", "-g", SANITIZE, "-fno-omit-frame-pointer"],
    "fuzz": ["-O1", "-g", SANITIZE, "-fsanitize-coverage=trace-pc,trace-cmp"],
}[BUILD]
link_args = [SANITIZE] if BUILD in ("asan", "fuzz") else []

extensions = [
    Extension(
        f"distex._core.{name}",
        [f"_core/{name}.pyx"],
        extra_compile_args=compile_args,
        extra_link_args=link_args,
    )
    for name in MODULES
]

setup(
    ext_modules=cythonize(
        extensions,
        include_path=["."],
        # Cython's own tracker of changes does not see headers that lie in another folder
        force=max(map(mtime, SOURCES)) > min(map(mtime, MADE)),
        compiler_directives={"language_level": 3, "linetrace": BUILD == "trace"},
        build_dir=str(C_FOLDER),
        nthreads=JOBS,
    ),
    # so that builds do not take each other's files for theirs
    options={"build": {"build_base": f"build/{BUILD}"}, "build_ext": {"parallel": JOBS}},
)
