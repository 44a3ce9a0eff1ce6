"""Times that users give: each may be as long as it likes, or is refused where it is given."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distex import Pool, SshOptions, TcpOptions
from distex.options import LONGEST, seconds

from . import tasks

TIMES = [1e10, 1e300, math.inf, 10**400]


async def collect(results):
    return [result async for result in results]



USES = {
    "map": lambda pool, time: next(pool.map(abs, [-1], timeout=time)),
    "map over what comes later": lambda pool, time: next(pool.map(abs, later(), timeout=time)),
    "options of a map": lambda pool, time: next(pool.options(timeout=time).map(abs, [-1])),
    "options of run": lambda pool, time: pool.options(timeout=time).run(abs, -1),
    "options of submit": lambda pool, time: pool.options(timeout=time).submit(abs, -1).result(),
    "a future's result": lambda pool, time: pool.submit(abs, -1).result(time),
    "a future's exception": lambda pool, time: pool.submit(abs, -1).exception(time) or 1,
    "grace": lambda pool, time: pool.options(
        grace=time, cancel_running="interrupt").run(abs, -1),
    "ready": lambda pool, time: pool.ready.wait(time),
}


async def later():
    yield -1


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_a_time_may_be_as_long_as_it_likes(pool, use):
    for time in TIMES:
        assert use(pool, time) == 1
    assert pool.run(abs, -1) == 1


async def test_the_same_for_an_asynchronous_map(make_pool):
    async with make_pool(1) as pool:
        for time in TIMES:
            assert await collect(pool.map_async(abs, [-1], timeout=time)) == [1]
            assert await pool.options(timeout=time).run_async(abs, -1) == 1


def test_a_full_pool_waits_as_long(make_pool):
    with make_pool(1, max_pending=1) as pool:
        for time in TIMES:
            futures = [pool.options(timeout=time).submit(abs, -1) for _ in range(3)]
            assert [future.result(time) for future in futures] == [1, 1, 1]


@pytest.mark.parametrize("time", [math.inf, 10**400])
def test_a_pool_may_be_given_as_long(make_pool, time):
    with make_pool(1, start_timeout=time, spin=time, tcp=TcpOptions(keepalive=time)) as pool:
        assert pool.run(abs, -1) == 1


REFUSING = {
    "map": lambda pool, time: pool.map(abs, [1], timeout=time),
    "map_async": lambda pool, time: pool.map_async(abs, [1], timeout=time),
    "timeout": lambda pool, time: pool.options(timeout=time),
    "grace": lambda pool, time: pool.options(grace=time),
    "ready": lambda pool, time: pool.ready.wait(time),
    "spin": lambda pool, time: Pool(1, spin=time),
    "start_timeout": lambda pool, time: Pool(1, start_timeout=time),
    "keepalive": lambda pool, time: TcpOptions(keepalive=time),
    "connect_timeout": lambda pool, time: SshOptions(connect_timeout=time),
}


@pytest.mark.parametrize(("name", "use"), REFUSING.items(), ids=REFUSING)
def test_what_is_no_time_is_refused_where_it_is_given(pool, name, use):
    with pytest.raises(ValueError, match="must be a number of seconds"):
        use(pool, math.nan)
    for time in ("3", True, [1]):
        with pytest.raises(TypeError, match="must be a number of seconds"):
            use(pool, time)
    assert pool.run(abs, -1) == 1


@pytest.mark.parametrize("time", [0, -1, -math.inf, -10**400], ids=["0", "-1", "-inf", "long"])
def test_a_time_that_is_over_already(pool, gate, time):
    """As the standard library has it, for what is not a setting."""
    with pytest.raises(TimeoutError):
        list(pool.map(tasks.pass_gate, [gate.path], timeout=time))
    gate.open()
    with pytest.raises(ValueError, match="more than 0"):
        pool.options(timeout=time)


@given(st.one_of(st.integers(), st.floats(), st.fractions(), st.decimals(), st.booleans(),
                 st.text(), st.none()), st.sampled_from([None, 0, -math.inf]))
def test_any_value_is_a_time_that_can_be_waited_for_or_refused(value, least):
    try:
        time = seconds("it", value, least=least)
    except (TypeError, ValueError) as exc:
        assert str(exc).startswith("it must be a number of seconds")
    else:
        assert time <= LONGEST
        assert time > 0 if least is None else time >= least
