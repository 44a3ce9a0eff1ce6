"""What scripts define, and the state that they have: each works in a pool as it does here."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).with_name("scripts")


def run(name, loop_type, cwd):
    """Run a script; the lines that it prints."""
    done = subprocess.run(
        [sys.executable, SCRIPTS / name, loop_type.name], text=True, capture_output=True, cwd=cwd,
        timeout=110)
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.mark.timeout(120)
def test_definitions_of_all_kinds(loop_type, tmp_path):
    (last,) = run("definitions.py", loop_type, tmp_path)
    assert last == "71 cases"


@pytest.mark.timeout(120)
def test_more_of_what_scripts_define_and_do(loop_type, tmp_path):
    assert run("more_definitions.py", loop_type, tmp_path) == ["done"]


@pytest.mark.timeout(120)
def test_state(loop_type, tmp_path):
    assert run("state.py", loop_type, tmp_path) == ["done"]


@pytest.mark.timeout(120)
def test_what_was_replaced_under_its_name(loop_type, tmp_path):
    """Globals that hold the old one keep it, in a new worker too."""
    assert run("replaced.py", loop_type, tmp_path) == ["done"]
