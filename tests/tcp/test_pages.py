"""The programs of README and docs that use machines without ssh, with this one in their place."""

import os
import subprocess
import sys

import pytest
from machine import free_port
from pages import JOINING, SERVER, blocks


def run(program, secret, folder, old, new):
    """What the program prints, with one thing replaced."""
    assert old in program
    program = program.replace(old, new)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], cwd=folder, timeout=60,
        env={**os.environ, "DISTEX_SECRET": str(secret)}, stdin=subprocess.DEVNULL,
        capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("program", blocks(SERVER))
def test_a_program_for_a_host_without_ssh(program, server, secret, tmp_path):
    output = run(program, secret, tmp_path, "mini/2", server.url(2))
    assert output.count(os.uname().nodename) == 3


@pytest.mark.parametrize("program", blocks(JOINING))
def test_a_program_that_workers_join(program, secret, tmp_path):
    port = str(free_port())
    output = run(program, secret, tmp_path, "8900", port)
    assert str(2**100) in output
    assert f"('0.0.0.0', {port})" in output
