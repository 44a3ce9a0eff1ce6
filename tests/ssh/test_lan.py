"""Several hosts, each with an address and an sshd of its own: what is lost when one is cut off."""

import itertools
import os
import time
from concurrent.futures import as_completed

import pytest
from machine import is_alive, wait_until

from distex import Pool, PoolStartError, WorkerLost
from distex.launch import base

from .tasks import address, double

KEEPALIVE = 1.5  # seconds


@pytest.fixture(autouse=True)
def impatient_nannies(monkeypatch):
    """They take a silent pool for gone soon."""
    monkeypatch.setattr(base, "ALONE_FACTOR", 2)


def specs(hosts, workers=2, **options):
    return [host.spec(workers, **{"keepalive": KEEPALIVE, **options}) for host in hosts]


class Stay:
    """Tasks that go on until the test is over."""

    def __init__(self, folder):
        self.folder = folder
        self.folder.mkdir()

    def task(self):
        """To be run by a worker."""
        (self.folder / str(os.getpid())).touch()
        while not (self.folder / "over").exists():
            time.sleep(0.01)
        return address()

    def count(self):
        """How many have begun."""
        return len(list(self.folder.iterdir()))


@pytest.fixture
def stay(tmp_path):
    stay = Stay(tmp_path / "stay")
    yield stay
    (stay.folder / "over").touch()


def test_each_host_has_its_workers(lan):
    hosts = [lan.add() for _ in range(3)]
    with Pool(1, specs(hosts)) as pool:
        assert pool.total_workers() == 7
        found = pool.run_on_all(lambda: os.environ.get("SSH_CONNECTION", "  here").split(" ")[2])
        assert sorted(found) == sorted(["here", *(host.address for host in hosts * 2)])
        assert list(pool.map(double, range(500))) == [double(x) for x in range(500)]


def test_a_host_is_cut_off_and_comes_back(lan, loop_type, stay):
    """Its tasks fail soon, all others go on, and nothing goes on on the host itself."""
    hosts = [lan.add() for _ in range(3)]
    pool = Pool(0, specs(hosts), qsize=1, worker_loop=loop_type)
    futures = [pool.submit(stay.task) for _ in range(6)]
    try:
        wait_until(lambda: stay.count() == 6, "all of them to run")
        old = hosts[1].processes()
        hosts[1].pull()
        since = time.monotonic()
        lost = list(itertools.islice(as_completed(futures), 2))
        assert time.monotonic() - since < KEEPALIVE + 5
        assert all(isinstance(future.exception(), WorkerLost) for future in lost)
        assert {future.exception().host for future in lost} == {str(specs(hosts)[1])}
        assert not any(future.done() for future in futures if future not in lost)
        wait_until(lambda: not any(is_alive(process.pid) for process in old), "their end there")
        hosts[1].cut()  # its sshd still waits for the network
        hosts[1].plug()
        assert pool.run(address) == hosts[1].address  # all others are busy
        wait_until(lambda: pool.total_workers() == 6, "all workers")
    finally:
        (stay.folder / "over").touch()
        pool.shutdown()
    assert sorted(future.result() for future in futures if future not in lost) == sorted(
        [hosts[0].address, hosts[2].address] * 2)


def test_no_result_is_lost_or_doubled(lan, tmp_path):
    """Of many tasks under way when a host is cut off each ends once: with its own result or, if it
    had started there, as lost; and none starts twice unless it never ended."""
    hosts = [lan.add() for _ in range(3)]
    log = tmp_path / "log"

    def task(k):
        with open(log, "a") as file:  # appending is atomic
            file.write(f"{k}\n")
        time.sleep(0.005)
        return k

    ends = []
    with Pool(0, specs(hosts)) as pool:
        futures = [pool.submit(task, k) for k in range(3000)]
        for k, future in enumerate(futures):
            future.add_done_callback(lambda _, k=k: ends.append(k))
        wait_until(lambda: len(ends) > 300, "some results")
        hosts[0].pull()
        errors = [future.exception() for future in futures]
        hosts[0].cut()
    assert sorted(ends) == list(range(3000))
    lost = [k for k, error in enumerate(errors) if error is not None]
    assert all(isinstance(errors[k], WorkerLost) for k in lost)
    assert len(lost) <= 2 * 64  # what two workers can have had in a frame and more
    assert all(future.result() == k for k, future in enumerate(futures) if k not in lost)
    assert set(map(int, log.read_text().split())) >= set(range(3000)) - set(lost)


def test_a_host_that_is_cut_off_from_the_beginning(lan):
    hosts = [lan.add(), lan.add()]
    hosts[1].pull()
    since = time.monotonic()
    with pytest.raises(PoolStartError, match=hosts[1].address.replace(".", r"\.")) as caught:
        Pool(0, specs(hosts, connect_timeout=1.0))
    assert "To mend it: see whether the host is up" in str(caught.value)
    assert time.monotonic() - since < 15
    hosts[1].plug()


def test_a_host_is_rebooted(lan):
    hosts = [lan.add(), lan.add()]
    with Pool(0, specs(hosts)) as pool:
        hosts[0].power_off()
        wait_until(lambda: pool.total_workers() == 2, "the loss to be noticed")
        assert pool.run(address) == hosts[1].address
        hosts[0].power_on()
        wait_until(lambda: pool.total_workers() == 4, "the host")
        assert set(pool.run_on_all(address)) == {host.address for host in hosts}


def test_shutdown_while_a_host_is_cut_off(lan):
    hosts = [lan.add(), lan.add()]
    with Pool(0, specs(hosts)) as pool:
        assert pool.run(double, 1) == 2
        hosts[1].pull()
        since = time.monotonic()
    assert time.monotonic() - since < 15
    hosts[1].cut()
