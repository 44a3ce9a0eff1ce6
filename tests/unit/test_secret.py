"""The file with the secret: read once, from where nobody else can put another one."""

import os
import re
import ssl
import threading

import pytest
from machine import not_here

from distex import HostError
from distex.wire.secret import Secret, make


def shake_hands(server, client):
    """Whether a client and a server get through the TLS handshake with each other."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [server.context(["a"], server_side=True).wrap_bio(incoming, outgoing, server_side=True),
            client.context(["a"], server_side=False).wrap_bio(outgoing, incoming)]
    try:
        for _ in range(4):
            for end in ends:
                try:
                    end.do_handshake()
                except ssl.SSLWantReadError:
                    continue
    except ssl.SSLError:
        return False
    return ends[0].selected_alpn_protocol() == ends[1].selected_alpn_protocol() == "a"


def replace(path):
    """Put another secret in the place of this one."""
    make(f"{path}.new")
    os.replace(f"{path}.new", path)


def test_what_was_checked_is_what_is_used(tmp_path):
    """Whatever the file is by then."""
    path = tmp_path / "secret.pem"
    make(path)
    secret = Secret(path)
    replace(path)
    other = Secret(path)
    assert shake_hands(secret, secret)
    assert shake_hands(other, other)
    assert not shake_hands(secret, other)
    assert not shake_hands(other, secret)
    path.unlink()
    assert shake_hands(secret, secret)


def test_a_child_has_the_secret_of_its_parent(tmp_path):
    path = tmp_path / "secret.pem"
    make(path)
    secret = Secret(path)
    replace(path)
    with secret.opened() as fd:
        inherited = Secret.inherited(os.dup(fd))
    assert inherited.mark == secret.mark
    assert shake_hands(inherited, secret)


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o757])
@pytest.mark.parametrize("which", ["its folder", "one above", "one above, by a link"])
def test_a_folder_that_others_can_write_to(tmp_path, mode, which):
    folder = tmp_path / "above" / "folder"
    folder.mkdir(parents=True)
    make(folder / "secret.pem")
    Secret(folder / "secret.pem")
    writable = folder if which == "its folder" else folder.parent
    os.chmod(writable, mode)
    path = folder / "secret.pem"
    if which == "one above, by a link":
        (tmp_path / "link").symlink_to(path)
        path = tmp_path / "link"
    with pytest.raises(HostError, match=rf"others can put another file.*chmod go-w {re.escape(str(writable))}"):
        Secret(path)


def test_in_a_folder_with_the_sticky_bit_others_can_replace_nothing(tmp_path):
    make(tmp_path / "secret.pem")
    os.chmod(tmp_path, 0o1777)
    Secret(tmp_path / "secret.pem")


def test_another_user_who_owns_a_folder_above_can_replace_it(tmp_path):
    if os.geteuid() != 0:
        not_here("to give a folder to another user takes root")
    folder = tmp_path / "theirs"
    folder.mkdir()
    make(folder / "secret.pem")
    os.chown(folder, 65534, 65534)
    with pytest.raises(HostError, match="others can put another file"):
        Secret(folder / "secret.pem")


def test_more_than_one_certificate(tmp_path):
    """One that somebody has added would let that one in."""
    path = tmp_path / "secret.pem"
    make(path)
    make(tmp_path / "other.pem")
    path.write_bytes(path.read_bytes() + (tmp_path / "other.pem").read_bytes())
    with pytest.raises(HostError, match="more than one certificate"):
        Secret(path)


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_what_is_no_file(tmp_path, kind):
    """Nothing waits for it."""
    path = tmp_path / kind
    if kind == "pipe":
        os.mkfifo(path, 0o600)
    elif kind == "folder":
        path.mkdir()
    else:
        path = "/dev/zero"
    with pytest.raises(HostError, match=r"is no file|can't be read|others can read"):
        Secret(path)


def test_a_swap_while_it_is_read(tmp_path):
    """At any time: what is used is one or the other, and whole."""
    path = tmp_path / "secret.pem"
    make(path)
    marks, done = {Secret(path).mark}, threading.Event()

    def swap():
        for _ in range(20):
            make(f"{path}.new")
            marks.add(Secret(f"{path}.new").mark)
            os.replace(f"{path}.new", path)
        done.set()

    thread = threading.Thread(target=swap)
    thread.start()
    while not done.is_set():
        secret = Secret(path)
        assert shake_hands(secret, secret)
        assert secret.mark in marks
    thread.join()
