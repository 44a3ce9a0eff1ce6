"""Which connections get a TLS handshake: their first bytes, whose turn it is, what is logged."""

import logging
import socket
import ssl
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distex.wire import drops
from distex.wire.admission import Sources
from distex.wire.client_hello import DENIED, SIZE_LIMIT_BYTES, FirstBytes, Found, deny
from distex.wire.drops import Drops
from distex.wire.secret import Secret, make


@pytest.fixture(scope="module")
def secret(tmp_path_factory):
    path = tmp_path_factory.mktemp("secret") / "secret.pem"
    make(path)
    return Secret(path)


@pytest.fixture(scope="module")
def hello(secret):
    """What a client with the secret sends first."""
    context = secret.context(["something"], server_side=False)
    sent = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), sent).do_handshake()
    return sent.read()


def first_bytes(pieces, mark, end):
    """What is found after each of the pieces; and at the end, if there is one."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        first = FirstBytes(ours, mark)
        found = [first.look()]
        for piece in pieces:
            theirs.sendall(piece)
            found.append(first.look())
        if end:
            theirs.shutdown(socket.SHUT_WR)
            found.append(first.look())
    return found


@given(st.data())
def test_the_mark_is_found_once_all_is_there(secret, hello, data):
    """However it is cut. (A look without news is not taken for the end: the system only says that
    there is news once there are as many bytes as are needed, which a pair of Unix sockets does not
    do.)"""
    at = data.draw(st.integers(0, len(hello)))
    if at >= 5:  # the header is there, which says how much is to come
        found = first_bytes([hello[:at], hello[at:]], secret.mark, end=False)
        assert found[-1] is Found.MARKED
        assert set(found[:-1]) <= {Found.INCOMPLETE, Found.MARKED}
    assert first_bytes([hello], b"another", end=False)[-1] is Found.UNMARKED


@given(st.binary(max_size=2 * SIZE_LIMIT_BYTES), st.booleans())
def test_any_other_bytes_are_not_marked(data, end):
    assert Found.MARKED not in first_bytes([data], b"distex-" + bytes(32), end)


def test_nothing(secret, hello):
    assert first_bytes([], secret.mark, end=True)[-1] is Found.NOTHING
    assert first_bytes([hello[:100]], secret.mark, end=True)[-1] is Found.NOTHING


def test_the_mark_says_nothing_of_the_secret_and_differs_between_secrets(secret, tmp_path):
    make(tmp_path / "other")
    assert Secret(tmp_path / "other").mark != secret.mark
    assert secret.mark.removeprefix(b"distex-") not in secret._content


def test_a_client_with_another_secret_is_told(secret):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"a ClientHello")
        deny(ours)
        with pytest.raises(ssl.SSLError) as info:
            secret.context([], server_side=False).wrap_socket(theirs)
        assert info.value.reason == DENIED


class Model:
    """Sources as a list of (connection, source)."""

    def __init__(self):
        self.all = []
        self.turns = []  # sources in line

    def add(self, connection, source):
        self.all.append((connection, source))
        if source not in self.turns:
            self.turns.append(source)

    def remove(self, connection):
        (source,) = {s for c, s in self.all if c is connection}
        self.all.remove((connection, source))
        if source not in [s for _, s in self.all]:
            self.turns.remove(source)
        return source

    def take_turn(self):
        source = self.turns[0]
        connection = next(c for c, s in self.all if s == source)
        self.remove(connection)
        if source in self.turns:
            self.turns.remove(source)
            self.turns.append(source)
        return connection, source


@given(st.lists(st.one_of(
    st.sampled_from("abc"), st.integers(0, 50), st.sampled_from(["turn", "too many"]))))
def test_sources_take_turns(steps):
    sources, model = Sources(), Model()
    for step in steps:
        if step in ("a", "b", "c"):
            connection = object()
            sources.add(connection, step, 1.0)
            model.add(connection, step)
        elif model.all and step == "turn":
            assert sources.take_turn() == model.take_turn()
        elif model.all and step == "too many":
            late = sources.too_many()
            most = Counter(s for _, s in model.all).most_common(1)[0][1]
            source = model.remove(late)
            assert [s for _, s in model.all].count(source) == most - 1
            assert sources.remove(late) == source
        elif model.all and isinstance(step, int):
            connection = model.all[step % len(model.all)][0]
            assert sources.remove(connection) == model.remove(connection)
        assert len(sources) == len(model.all)
        if model.all:
            assert sources.oldest()[0] is model.all[0][0]
    assert sources.take_all() == [c for c, _ in model.all]
    assert not sources


def test_drops_are_counted_and_some_are_logged(caplog, monkeypatch):
    now = 1000.0
    monkeypatch.setattr(drops.time, "monotonic", lambda: now)
    counter = Drops(logging.getLogger("distex"))
    for _ in range(10_000):
        counter.count(ValueError("so"))
    assert counter.number == 10_000
    assert len(caplog.records) == drops.ONE_BY_ONE
    now += drops.INTERVAL
    for _ in range(100):
        counter.count(ValueError("so"))
    assert len(caplog.records) == drops.ONE_BY_ONE + 1
    assert "the 10001. so far" in caplog.text
