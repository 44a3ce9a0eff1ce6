"""Short lives of pools: see tests/lives.py. LIVES_SECONDS makes them more than they are here."""

import pytest
from effort import how_long
from lives import lives

SECONDS = how_long("LIVES_SECONDS", plain=1.5, thorough=10)


@pytest.mark.timeout(SECONDS + 120)
def test_pools_of_all_kinds_come_to_an_end_in_every_way(loop_type):
    assert lives(loop_type, SECONDS)
