"""What types promise: the package is clean under mypy --strict, the stubs tell what the compiled
modules have, and a user's program is understood as it should be."""

import subprocess
import sys
from pathlib import Path

import pytest

for tool in ("mypy", "ruff", "cython_lint"):
    pytest.importorskip(tool, reason="comes with the dependency group 'lint'")

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CORE = [f"distex._core.{stub.stem}" for stub in sorted(ROOT.glob("distex/_core/*.pyi"))]


def run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *args], cwd=ROOT, text=True, capture_output=True, timeout=280)


@pytest.mark.timeout(300)
def test_the_package_is_clean_under_strict_checks():
    done = run("mypy")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.timeout(300)
def test_the_stubs_match_the_compiled_modules():
    assert len(CORE) == len(list(ROOT.glob("_core/*.pyx")))
    done = run("mypy.stubtest", "--mypy-config-file", "pyproject.toml",
               "--allowlist", str(HERE / "stubtest-allowlist.txt"), *CORE)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.timeout(300)
def test_a_program_that_uses_the_package():
    done = run("mypy", "--strict", str(HERE / "program.py"))
    assert done.returncode == 0, done.stdout + done.stderr


def test_ruff_finds_nothing():
    done = run("ruff", "check", ".")
    assert done.returncode == 0, done.stdout + done.stderr


def test_cython_lint_finds_nothing():
    done = run("cython_lint.cython_lint", "_core", "distex/_core")
    assert done.returncode == 0, done.stdout + done.stderr
