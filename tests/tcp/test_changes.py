"""A pool that is changed from many sides at a time: random schedules, a deadline on each call, and
the right number of workers at the end.

    a thread, a loop ──scale, add_host, remove_host, tasks──> pool
                     ──kill──> its workers and nannies
"""

import asyncio
import concurrent.futures
import contextlib
import os
import random
import signal
import threading
import time

import pytest
from effort import so_much
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from machine import DEADLINE, wait_until

from distex import HostError, PoolClosed, PoolStartError, WorkerLost

from .tasks import double

AT_THE_END = 2  # local workers
pauses = st.sampled_from([0.0, 0.0, 0.0, 0.003, 0.05])
changes = st.one_of(
    st.tuples(st.just("scale"), st.integers(0, 3)),
    st.tuples(st.just("scale"), st.integers(0, 3)),
    st.tuples(st.sampled_from(["add_host", "add_host", "remove_host", "hurry", "submit"]), st.none()),
)
kills = st.tuples(st.sampled_from(["kill_worker", "kill_nanny"]), st.none())


def schedules(actions):
    """What each of several threads and loops does, one thing after another."""
    steps = st.lists(st.tuples(pauses, actions), min_size=1, max_size=4)
    return st.lists(st.tuples(st.booleans(), steps), min_size=2, max_size=4)


class Run:
    """One run of a schedule."""

    def __init__(self, pool, url):
        self.pool = pool
        self.url = url
        self.tasks = []
        self.allowed = {"add_host": [HostError], "remove_host": [HostError], "hurry": [HostError]}
        self.killed = False
        self.failures = []

    def may_fail(self, *errors):
        """From now on any of the calls may."""
        for name in ("scale", "add_host", "remove_host", "hurry", "submit"):
            self.allowed.setdefault(name, []).extend(errors)

    def play(self, schedule):
        """Do all that is in it, at the same time."""
        threads = [
            threading.Thread(target=self._actor, args=actor, daemon=True) for actor in schedule]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE)
            assert not thread.is_alive(), f"a call hangs in {schedule}"
        assert not self.failures, self.failures

    def _actor(self, asynchronous, steps):
        try:
            if asynchronous:
                asyncio.run(self._do_async(steps))
            else:
                for pause, (name, number) in steps:
                    time.sleep(pause)
                    with contextlib.suppress(*self.allowed.get(name, ())):
                        self._sync(name, number)
        except BaseException as exc:
            self.failures.append(exc)

    def _sync(self, name, number):
        pool = self.pool
        if name == "scale":
            pool.scale(number)
        elif name == "add_host":
            pool.add_host(self.url)
        elif name in ("remove_host", "hurry"):
            pool.remove_host(self.url, drain=name == "remove_host")
        elif name == "submit":
            self.tasks.append(pool.submit(double, len(self.tasks)))
        else:
            self._kill(name)

    async def _do_async(self, steps):
        pool = self.pool
        for pause, (name, number) in steps:
            await asyncio.sleep(pause)
            with contextlib.suppress(*self.allowed.get(name, ())):
                if name == "scale":
                    await pool.scale_async(number)
                elif name == "add_host":
                    await pool.add_host_async(self.url)
                elif name in ("remove_host", "hurry"):
                    await pool.remove_host_async(self.url, drain=name == "remove_host")
                else:
                    self._sync(name, number)

    def _kill(self, name):
        if name == "kill_worker":
            pids = [worker.pid for worker in self.pool.workers()]
        else:
            pids = [getattr(host.nanny, "pid", 0) for host in list(self.pool._home.supervisor.hosts)]
        if pids := [pid for pid in pids if pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(random.choice(pids), signal.SIGKILL)


def examples():
    return settings(max_examples=so_much(plain=5, thorough=80), deadline=None,
                    suppress_health_check=list(HealthCheck))


def ends_well(run):
    """The pool does what is asked of it, once nobody else asks."""
    pool = run.pool
    pool.scale(AT_THE_END)
    with contextlib.suppress(HostError):
        pool.remove_host(run.url)
    assert pool.total_workers() == AT_THE_END
    # a local host that scale(0) had removed may still be on its way out
    wait_until(lambda: [host.wanted for host in pool._home.supervisor.hosts] == [AT_THE_END],
               "the others to be gone")
    all_done(run)
    assert pool.statistics().connections_dropped == 0  # all that came were the pool's own


def all_done(run, *errors):
    """All tasks have come to their end, by such an error at worst."""
    done, _ = concurrent.futures.wait(run.tasks, DEADLINE)
    assert len(done) == len(run.tasks)
    for number, task in enumerate(run.tasks):
        assert isinstance(task.exception(), errors) or task.result() % 2 == 0, number


@pytest.mark.timeout(600)
def test_the_last_wins_whoever_else_changes_the_pool(listening, server):
    @examples()
    @given(schedules(changes))
    def check(schedule):
        run = Run(pool, server.url(1))
        run.play(schedule)
        ends_well(run)

    with listening(1) as pool:
        check()


@pytest.mark.timeout(600)
def test_the_last_wins_whoever_dies(listening, server):
    @examples()
    @given(schedules(st.one_of(changes, changes, kills)))
    def check(schedule):
        run = Run(pool, server.url(1))
        run.may_fail(PoolStartError)
        run.play(schedule)
        # what was killed may still be on its way
        wait_until(lambda: works(pool), "all workers to be there")
        all_done(run, WorkerLost)

    def works(pool):
        try:
            pool.scale(AT_THE_END)
            with contextlib.suppress(HostError):
                pool.remove_host(server.url(1))
            return len(pool.run_on_all(double, 1)) == pool.total_workers() == AT_THE_END
        except (PoolStartError, WorkerLost):
            return False

    with listening(1) as pool:
        check()


@pytest.mark.timeout(600)
def test_every_call_returns_when_the_pool_ends(listening, server):
    @examples()
    @given(schedules(st.one_of(changes, changes, kills)), pauses, st.booleans())
    def check(schedule, pause, drain):
        pool = listening(1)
        run = Run(pool, server.url(1))
        run.may_fail(PoolStartError, PoolClosed, RuntimeError)
        end = threading.Timer(pause, pool.shutdown if drain else pool.kill)
        end.start()
        run.play(schedule)
        end.join(DEADLINE)
        assert not end.is_alive()
        pool.shutdown()
        all_done(run, WorkerLost, PoolClosed)

    check()
