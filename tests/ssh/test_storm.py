"""Kill storm: sshd's sessions and remote nannies are killed under load; see tests/storm.py."""

import pytest
from effort import how_long
from storm import killer, storm

from distex import Pool

SECONDS = how_long("STORM_SECONDS", plain=1.5, thorough=10)


@pytest.mark.timeout(SECONDS + 180)
@pytest.mark.parametrize("what", ["sshd", "nanny"])
def test_every_task_has_one_right_result_or_worker_lost(sshd, what):
    kill = sshd.cut if what == "sshd" else killer(sshd.nanny_pids)
    with Pool(1, sshd.spec(2), qsize=4) as pool:
        report = storm(pool, kill, SECONDS, interval=1.0, calm=0.2)
    assert not report.tally.faults, report
    assert report.kills and report.after, report
