"""What a new user runs first: ``python -m distex``, ``distex_proc`` and the small example."""

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import distex

ROOT = Path(__file__).parents[2]
TIMEOUT = 60  # seconds; each takes about one


def run(*command, **kwargs):
    """The output of a command that succeeds and has nothing to complain about."""
    done = subprocess.run(command, timeout=TIMEOUT, stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, **kwargs)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout


def test_module_tells_version_and_interpreter(tmp_path):
    output = run(sys.executable, "-m", "distex", cwd=tmp_path)
    assert distex.__version__ in output
    assert sys.executable in output


def test_script_tells_the_same(tmp_path):
    script = Path(sysconfig.get_path("scripts"), "distex_proc")
    if not script.exists():
        pytest.skip("distex is not installed into this environment")
    assert run(script, cwd=tmp_path) == run(sys.executable, "-m", "distex", cwd=tmp_path)


def test_example_stream(tmp_path):
    output = run(sys.executable, ROOT / "examples" / "stream.py", cwd=tmp_path)
    ticks = [int(line.split()[1]) for line in output.splitlines() if line.startswith("tick")]
    assert ticks == list(range(12))
