"""A pool in a Jupyter kernel: definitions in cells, top-level await, interrupts."""

import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).with_name("scripts") / "notebook.py"


@pytest.mark.timeout(120)
def test_a_notebook(loop_type, tmp_path):
    done = subprocess.run(
        [sys.executable, NOTEBOOK, loop_type.name], text=True, capture_output=True, cwd=tmp_path,
        timeout=110)
    lines = done.stdout.splitlines()
    assert [line for line in lines if line and " time" not in line] == [
        "in a cell False True True",
        "a class again 2 1",
        "a function again 4",
        "a global again 5",
        "at top level 6 [2, 3, 4]",
        "another 7",
        "begun",
        "KeyboardInterrupt",
        "begun",
        "CancelledError",
        "by a magic 5",
        "a new pool 5",
    ], done.stderr
    assert done.returncode == 0
