"""Runs the leak scripts beside this file, each in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
TIMEOUT = 230 * int(os.environ.get("LEAK_FACTOR") or 1)  # seconds
SCRIPTS = sorted(HERE.glob("leak_*.py"))


@pytest.mark.timeout(TIMEOUT + 10)
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_nothing_leaks(script):
    paths = [str(HERE), str(HERE.parent), str(HERE.parent / "unit"), *sys.path]
    done = subprocess.run(
        [sys.executable, str(script)], text=True, capture_output=True, timeout=TIMEOUT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))})
    assert done.returncode == 0, done.stdout + done.stderr
