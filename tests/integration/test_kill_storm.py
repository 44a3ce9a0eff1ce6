"""Kill storm: workers and nannies are killed under load, again and again; see tests/storm.py.

Those of remote workers are in tests/ssh/test_storm.py. STORM_SECONDS makes them longer."""

from functools import partial

import pytest
from effort import how_long
from storm import killer, nanny_pids, storm, worker_pids

SECONDS = how_long("STORM_SECONDS", plain=1, thorough=20)
FEWER = how_long("STORM_SECONDS", plain=1, thorough=10)


RETRIES = 50  # a task may happen to be on many workers that are killed


@pytest.mark.timeout(SECONDS + 120)
@pytest.mark.parametrize(("pids", "interval", "seconds"), [
    (worker_pids, 0.05, SECONDS), (nanny_pids, 0.5, FEWER)], ids=["workers", "nannies"])
def test_every_task_has_one_right_result_or_worker_lost(make_pool, pids, interval, seconds):
    with make_pool(4, qsize=4) as pool:
        report = storm(pool, killer(partial(pids, pool)), seconds, interval, calm=0.2)
    assert not report.tally.faults, report
    assert report.kills and report.after, report


@pytest.mark.timeout(SECONDS + 120)
def test_with_retries_every_task_has_its_right_result(make_pool):
    with make_pool(4, qsize=4, retries=RETRIES) as pool:
        kill = killer(partial(worker_pids, pool))
        report = storm(pool, kill, FEWER, calm=0.2, retried=True)
    assert not report.tally.faults, report
    assert report.kills and not report.tally.lost, report
