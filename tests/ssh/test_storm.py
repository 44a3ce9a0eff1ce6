"""Kill storm: sshd's sessions and remote nannies are killed under load; see tests/storm.py."""

import os

import pytest
from hypothesis import settings
from storm import killer, storm

from distex import Pool

CI = settings.default.max_examples >= 10_000
SECONDS = float(os.environ.get("STORM_SECONDS") or (10 if CI else 1.5))


@pytest.mark.timeout(SECONDS + 180)
@pytest.mark.parametrize("what", ["sshd", "nanny"])
def test_every_task_has_one_right_result_or_worker_lost(sshd, what):
    kill = sshd.cut if what == "sshd" else killer(sshd.nanny_pids)
    with Pool(1, sshd.spec(2), qsize=4) as pool:
        report = storm(pool, kill, SECONDS, interval=1.0, calm=0.2)
    assert not report.tally.faults, report
    assert report.kills and report.after, report
