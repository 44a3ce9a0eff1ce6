"""Nobody but the host that is meant gets the user's work, and a host gets no more than that,
whatever ~/.ssh/config says."""

import dataclasses
import os
import shlex
import subprocess
import sys
import tempfile

import asyncssh
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distex import HostSpec, Pool, PoolStartError, SshOptions
from distex.launch.ssh import _as_typed

from .support import TESTS, make_key


def configured(sshd, *lines, host="far"):
    """The host as a configuration has it, which ends with these lines."""
    sshd.client_config.write_text("\n".join([
        f"Host {host} jump", "  HostName 127.0.0.1", f"  Port {sshd.port}",
        f"  IdentityFile {sshd.user_key}", *lines, ""]))
    return HostSpec(f"ssh://{host}/1", SshOptions(
        config=sshd.client_config, python=sys.executable, working_directory=TESTS))


# --- the check of host keys

UNCHECKED = {
    "of the host": ["UserKnownHostsFile none"],
    "of all hosts": ["Host *", "UserKnownHostsFile none"],
    "in other words": ["userknownhostsfile=NONE"],
    "of the last look": ["Match final", "UserKnownHostsFile none"],
    "for a strict ssh": ["StrictHostKeyChecking yes", "UserKnownHostsFile none"],
    "for a careless ssh": ["StrictHostKeyChecking no", "UserKnownHostsFile none"],
    "though others are there": ["GlobalKnownHostsFile {known_hosts}", "UserKnownHostsFile none"],
}


@pytest.mark.parametrize("lines", UNCHECKED.values(), ids=UNCHECKED)
def test_no_configuration_switches_the_check_of_host_keys_off(sshd, lines):
    spec = configured(sshd, *(line.format(known_hosts=sshd.known_hosts) for line in lines))
    with pytest.raises(PoolStartError, match="UserKnownHostsFile is 'none'") as caught:
        Pool(0, spec)
    assert "SshOptions(known_hosts=...)" in str(caught.value)


def test_the_same_in_the_users_own_file(sshd, tmp_path, monkeypatch):
    spec = configured(sshd, "UserKnownHostsFile none")
    own = tmp_path / ".ssh" / "config"
    own.parent.mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    own.write_text(sshd.client_config.read_text())
    spec = HostSpec(spec.url, dataclasses.replace(spec.ssh, config=()))
    with pytest.raises(PoolStartError, match="UserKnownHostsFile is 'none'"):
        Pool(0, spec)
    configured(sshd, f"UserKnownHostsFile {sshd.known_hosts}")
    own.write_text(sshd.client_config.read_text())
    with Pool(0, spec) as pool:
        assert pool.run(abs, -1) == 1


def test_nor_that_of_a_host_between(sshd):
    spec = configured(
        sshd, "Host far", "  ProxyJump jump", f"  UserKnownHostsFile {sshd.known_hosts}",
        "Host jump", "  UserKnownHostsFile none")
    with pytest.raises(PoolStartError, match="jump: UserKnownHostsFile is 'none'"):
        Pool(0, spec)


def test_a_host_between_with_another_key_is_refused(make_sshd, tmp_path):
    sshd = make_sshd()
    sshd.know(make_key(tmp_path / "other_key"))
    spec = configured(sshd, f"  UserKnownHostsFile {sshd.known_hosts}", "Host far",
                      "  ProxyJump jump")
    with pytest.raises(PoolStartError, match="host key is not trusted"):
        Pool(0, spec)


def test_a_file_that_distex_is_told_of_is_asked_all_the_same(make_sshd, tmp_path):
    sshd = make_sshd()
    url, config = sshd.url(1), sshd.client_config
    config.write_text("UserKnownHostsFile none\n")
    with Pool(0, HostSpec(url, sshd.options())) as pool:
        assert pool.run(abs, -1) == 1
    sshd.know(make_key(tmp_path / "other_key"))
    with pytest.raises(PoolStartError, match="host key is not trusted"):
        Pool(0, HostSpec(url, sshd.options()))


def test_what_the_last_look_at_the_configuration_finds_is_taken(sshd):
    spec = configured(sshd, "Match final", f"UserKnownHostsFile {sshd.known_hosts}")
    with Pool(0, spec) as pool:
        assert pool.run(abs, -1) == 1


def test_a_host_between_that_is_one_for_all_hosts(sshd):
    """It is not reached by way of itself."""
    spec = configured(sshd, "Host *", "  ProxyJump jump",
                      f"  UserKnownHostsFile {sshd.known_hosts}")
    with Pool(0, spec) as pool:
        assert pool.run(abs, -1) == 1


@pytest.mark.parametrize("jump", ["-oProxyCommand=x", "a,$(touch$IFS$9x)", "jump:port"])
def test_a_host_between_that_is_none(sshd, jump):
    spec = configured(sshd, f"  ProxyJump {jump}", f"  UserKnownHostsFile {sshd.known_hosts}")
    with pytest.raises(PoolStartError, match="ProxyJump in the ssh configuration"):
        Pool(0, spec)


# --- the agent


@pytest.fixture
def agent(sshd, monkeypatch):
    """An agent with the user's key."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "agent")
        with subprocess.Popen(["ssh-agent", "-D", "-a", path], stdout=subprocess.PIPE) as process:
            process.stdout.readline()  # it listens
            monkeypatch.setenv("SSH_AUTH_SOCK", path)
            subprocess.run(["ssh-add", "-q", sshd.user_key], check=True)
            yield path
            process.terminate()


@pytest.mark.parametrize("value", ["yes", "{agent}"], ids=["yes", "path"])
def test_no_host_gets_the_agent(sshd, agent, monkeypatch, value):
    """Neither the host itself, nor one between, which could ask for it at any time."""
    told, connect = [], asyncssh.connect

    def note(*args, **kwargs):
        told.append(kwargs.get("agent_forwarding"))
        return connect(*args, **kwargs)

    monkeypatch.setattr(asyncssh, "connect", note)
    spec = configured(
        sshd, f"  ForwardAgent {value.format(agent=agent)}",
        f"  UserKnownHostsFile {sshd.known_hosts}", "Host far", "  ProxyJump jump")
    with Pool(0, spec) as pool:
        assert pool.run(os.environ.get, "SSH_AUTH_SOCK") in (None, agent)
        assert len(sshd.processes()) >= 2
    assert told == [False, False]


# --- what errors tell the user to type


def through_a_shell(command):
    """The words that a shell makes of it."""
    return subprocess.run(
        ["sh", "-c", f'ssh() {{ printf "%s\\0" "$@"; }}; {command}'],
        capture_output=True, check=True, text=True, stdin=subprocess.DEVNULL).stdout.split("\0")[:-1]


@given(st.lists(st.text(st.characters(min_codepoint=1, max_codepoint=255)), min_size=1))
def test_what_is_to_be_typed_has_the_words_arrive(words):
    """By way of two shells."""
    login, *there = shlex.split(_as_typed("maxi", *words))[1:]
    assert login == "maxi"
    assert shlex.split(" ".join(there)) == words


@pytest.mark.parametrize("word", ["plain", "two words", "$(touch 9x)", "a'b", 'a"b', "a\\b", "!"])
def test_a_shell_reads_it_so(word):
    login, *there = through_a_shell(_as_typed("maxi", "mkdir", "-p", word))
    assert login == "maxi"
    there = subprocess.run(
        ["sh", "-c", f'mkdir() {{ printf %s "$2"; }}; {" ".join(there)}'],
        capture_output=True, check=True, text=True).stdout
    assert there == word
