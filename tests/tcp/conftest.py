"""A secret, a spawn server and joining workers for the tests. What a test leaves behind is looked
for by the conftest one folder up."""

import pytest
from machine import wait_until

from distex import Pool, TcpOptions
from distex.wire.secret import make

from .support import Joiner, Server


@pytest.fixture(scope="session")
def secret(tmp_path_factory):
    """File with a secret."""
    path = tmp_path_factory.mktemp("secret") / "secret.pem"
    make(path)
    return path


@pytest.fixture
def other_secret(tmp_path):
    """File with a secret that is not the right one."""
    path = tmp_path / "other.pem"
    make(path)
    return path


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory, secret):
    """One spawn server for all tests that leave it as it is."""
    with Server(tmp_path_factory.mktemp("server"), secret) as server:
        yield server
        assert server.stop() == 0, server.log


@pytest.fixture
def server(shared_server):
    """The shared spawn server; after the test nothing that it has started may be there."""
    yield shared_server
    wait_until(lambda: not shared_server.children(), "an end of nannies and workers",
               shared_server.children)


@pytest.fixture
def make_server(tmp_path, secret):
    """Makes spawn servers for the test alone."""
    made = []

    def make(*arguments, secret=secret, **options):
        made.append(Server(tmp_path, secret, *arguments, **options))
        return made[-1]

    yield make
    for server in made:
        server.stop()


@pytest.fixture
def make_pool(secret, loop):
    """Makes pools of the kind of loop that the test is run for, with the secret."""
    def make(*args, tcp=None, **kwargs):
        return Pool(*args, worker_loop=loop.worker_loop,
                    tcp=tcp or TcpOptions(secret=secret), **kwargs)
    return make


@pytest.fixture
def listening(make_pool):
    """Makes pools that workers can join."""
    def make(num_workers=0, **kwargs):
        return make_pool(num_workers, localhost="127.0.0.1", **kwargs)
    return make


@pytest.fixture
def join(tmp_path, secret):
    """Starts workers that join a pool."""
    made = []

    def start(address, *arguments, workers=2, secret=secret, **options):
        made.append(Joiner(
            tmp_path, secret, address, "--workers", workers, *arguments, **options))
        return made[-1]

    yield start
    for joiner in made:
        with joiner:
            pass
