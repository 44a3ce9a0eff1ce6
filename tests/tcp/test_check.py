"""python -m distex check, with hosts without ssh."""

import pytest
from machine import free_port

from .support import Command, other_version


@pytest.fixture
def check(tmp_path, secret):
    """Runs the command: its exit code, and what it says."""
    def run(host, secret=secret):
        with Command(tmp_path, "distex", "check", host, "--secret", secret) as command:
            return command.wait(), command.log

    return run


def test_all_is_well(check, server):
    code, text = check(server.url(2))
    assert code == 0, text
    assert [line.split()[:2] for line in text.splitlines()] == [["connect", "ok"], ["task", "ok"]]
    assert "2 workers were ready" in text


def test_nothing_listens(check):
    code, text = check(f"127.0.0.1:{free_port()}/2")
    assert code == 1
    assert text.startswith("connect       FAILED") and "To mend it: start" in text


def test_another_secret(check, server, other_secret):
    code, text = check(server.url(2), other_secret)
    assert code == 1
    assert "has another secret" in text


def test_another_version(check, make_server, tmp_path):
    code, text = check(make_server(environment=other_version(tmp_path)).url(2))
    assert code == 1
    assert "connect       ok" in text and "task          FAILED" in text
    assert "wire version 99" in text
