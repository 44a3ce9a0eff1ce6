"""20 hosts with 50 workers each, one of which is cut off. It runs with PROFILE=ci only, as in
``make test PROFILE=ci`` or ``PROFILE=ci python -m pytest tests/ssh/test_large.py``."""

import collections
import time

import pytest
from machine import wait_until

from distex import Pool, WorkerLost

from .tasks import address, note_and_wait

HOSTS, WORKERS = 20, 50
READY_TIMEOUT = 30.0  # seconds


@pytest.mark.large
@pytest.mark.timeout(240)
def test_a_thousand_workers_on_twenty_hosts(lan, tmp_path):
    hosts = [lan.add() for _ in range(HOSTS)]
    specs = [host.spec(WORKERS, keepalive=6.0, connect_timeout=READY_TIMEOUT) for host in hosts]
    since = time.monotonic()
    with Pool(0, specs) as pool:
        assert time.monotonic() - since < READY_TIMEOUT
        assert pool.total_workers() == HOSTS * WORKERS
        # one task on every worker
        assert collections.Counter(pool.run_on_all(address)) == {
            host.address: WORKERS for host in hosts}
        # many tasks, in the midst of which a host is cut off
        (tmp_path / "log").mkdir()
        ends = []
        futures = [pool.submit(note_and_wait, str(tmp_path / "log"), k) for k in range(20_000)]
        for k, future in enumerate(futures):
            future.add_done_callback(lambda _, k=k: ends.append(k))
        wait_until(lambda: len(ends) > 2000, "some results")
        hosts[7].pull()
        errors = [future.exception() for future in futures]
        assert pool.total_workers() == (HOSTS - 1) * WORKERS
        hosts[7].cut()
        # each task has ended once, with its own result or, if it had started there, as lost
        assert sorted(ends) == list(range(20_000))
        lost = {k for k, error in enumerate(errors) if error is not None}
        assert all(isinstance(errors[k], WorkerLost) for k in lost)
        assert {errors[k].host for k in lost} <= {str(specs[7])}
        assert len(lost) <= 2 * WORKERS  # what was there: nobody knows whether it had started
        assert all(future.result() == k for k, future in enumerate(futures) if k not in lost)
        # and has run once, or once more elsewhere after it ended unheard of
        ran = collections.defaultdict(list)
        for path in (tmp_path / "log").iterdir():
            for line in path.read_text().splitlines():
                k, where = line.split()
                ran[int(k)].append(where)
        assert all(k in ran for k in range(20_000) if k not in lost)
        twice = [where for where in ran.values() if len(where) > 1]
        assert all(hosts[7].address in where for where in twice)
