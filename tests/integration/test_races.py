"""Races: see tests/races.py. RACE_SECONDS makes them longer than they are here."""

import os

import pytest
from hypothesis import settings
from races import race

CI = settings.default.max_examples >= 10_000
SECONDS = float(os.environ.get("RACE_SECONDS") or (10 if CI else 1.5))


@pytest.mark.timeout(SECONDS + 120)
def test_many_threads_and_loops_use_and_shut_down_one_pool(loop_type):
    race(loop_type, SECONDS)
