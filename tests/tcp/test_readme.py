"""The README's programs that use machines without ssh, with this one in their place."""

import os
import re
import subprocess
import sys
from pathlib import Path

from machine import free_port

README = Path(__file__).parents[2] / "README.md"


def run(mark, secret, folder, **replaced):
    """What the program prints that has this mark in it."""
    blocks = re.findall(r"^```python\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)
    (program,) = [block for block in blocks if mark in block]
    for old, new in replaced.values():
        assert old in program
        program = program.replace(old, new)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], cwd=folder, timeout=60,
        env={**os.environ, "DISTEX_SECRET": str(secret)}, stdin=subprocess.DEVNULL,
        capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_program_for_a_host_without_ssh(server, secret, tmp_path):
    output = run('"mini/2"', secret, tmp_path, host=("mini/2", server.url(2)))
    assert output.count(os.uname().nodename) == 3


def test_the_program_that_workers_join(secret, tmp_path):
    port = str(free_port())
    output = run("localport", secret, tmp_path, port=("8900", port))
    assert str(2**100) in output
    assert f"('0.0.0.0', {port})" in output
