"""Races: see tests/races.py. RACE_SECONDS makes them longer than they are here."""

import pytest
from effort import how_long
from races import race

SECONDS = how_long("RACE_SECONDS", plain=1.5, thorough=10)


@pytest.mark.timeout(SECONDS + 120)
def test_many_threads_and_loops_use_and_shut_down_one_pool(loop_type):
    race(loop_type, SECONDS)
