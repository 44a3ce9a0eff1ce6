"""Short lives of pools: see tests/lives.py. LIVES_SECONDS makes them more than they are here."""

import os

import pytest
from hypothesis import settings
from lives import lives

CI = settings.default.max_examples >= 10_000
SECONDS = float(os.environ.get("LIVES_SECONDS") or (10 if CI else 1.5))


@pytest.mark.timeout(SECONDS + 120)
def test_pools_of_all_kinds_come_to_an_end_in_every_way(loop_type):
    assert lives(loop_type, SECONDS)
