"""python -m distex check."""

import re
import subprocess
import sys

import pytest
from machine import free_port

from .support import make_command


@pytest.fixture
def check(sshd):
    """Runs the command: exit code and output."""
    def run(*arguments, url=sshd.url(2), key=sshd.user_key, python=sys.executable):
        done = subprocess.run(
            [sys.executable, "-m", "distex", "check", url, "--key", key, "--python", python,
             "--known-hosts", sshd.known_hosts, "--config", sshd.client_config, *arguments],
            capture_output=True, text=True, timeout=60)
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout
    return run


def steps(output):
    """How each step went, and what is said of the last."""
    return re.findall(r"^(\w+) +(ok|FAILED)", output, re.MULTILINE)


def test_all_is_well(check):
    code, output = check()
    assert steps(output) == [
        ("reach", "ok"), ("authenticate", "ok"), ("Python", "ok"), ("distex", "ok"),
        ("tunnel", "ok"), ("task", "ok")]
    assert "2 workers" in output
    assert code == 0


def test_not_reached(check):
    code, output = check(url=f"ssh://127.0.0.1:{free_port()}")
    assert steps(output) == [("reach", "FAILED")]
    assert "To mend it: " in output
    assert code == 1


def test_not_let_in(check, sshd):
    code, output = check(key=sshd.host_key)
    assert steps(output) == [("reach", "ok"), ("authenticate", "FAILED")]
    assert "ssh-copy-id" in output
    assert code == 1


def test_no_python(check):
    code, output = check(python="/no/such/python")
    assert steps(output)[-2:] == [("authenticate", "ok"), ("Python", "FAILED")]
    assert code == 1


def test_another_cloudpickle(check, tmp_path):
    (tmp_path / "cloudpickle.py").write_text("__version__ = '2.2.1'")
    python = make_command(
        tmp_path / "python", f'PYTHONPATH="{tmp_path}" exec "{sys.executable}" "$@"')
    code, output = check(python=str(python))
    assert steps(output)[-2:] == [("Python", "ok"), ("distex", "FAILED")]
    assert code == 1


@pytest.mark.parametrize("url", ["", "ssh://", "http://mini"])
def test_not_a_host(check, url):
    assert check(url=url)[0] == 2
