"""What types promise to users: a program of theirs is understood as it should be. That the package
itself is clean, and that the stubs match the compiled modules, `make lint` sees to."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy", reason="comes with the dependency group 'lint'")

HERE = Path(__file__).parent


@pytest.mark.timeout(300)
def test_a_program_that_uses_the_package():
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", str(HERE / "program.py")],
        cwd=HERE.parents[1], text=True, capture_output=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
