"""The public API in random order, against a model of what has to come of it.

    submit, run_async, map, cancel, time out, kill a worker, scale, shut down ──> pool
                                      │                                            │
                                      └──> model: what may come of each ───────────┴──> compared

Few examples in a plain run, more with PROFILE=ci.
"""

import asyncio
import concurrent.futures
import contextlib
import os
import random
import signal
import threading

import pytest
from effort import so_much
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from distex import Pool, PoolStartError, WorkerLost

from . import tasks
from .support import DEADLINE, wait_until

WORKERS = 2  # to begin with


def fails(value):
    raise LookupError(value)


async def later(value):
    await asyncio.sleep(0.001)
    return value


async def never(value):
    await asyncio.sleep(1000)


# what is called with a number, and what comes of it
GIVES = {tasks.double: lambda n: n * 2, tasks.double_async: lambda n: n * 2, later: lambda n: n}


class Loop:
    """An event loop in a thread, other than the pool's."""

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()

    def do(self, coroutine):
        """Its result, or what it raises."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(DEADLINE)

    def close(self):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


class Call:
    """One task and what the model knows of it."""

    def __init__(self, future, func, number, epoch):
        self.future = future
        self.func = func
        self.number = number
        self.epoch = epoch  # kills before it was sent
        self.cancelled = False  # asked to

    def check(self, outcome, kills):
        """Whether it may end so."""
        if isinstance(outcome, (concurrent.futures.CancelledError, asyncio.CancelledError)):
            assert self.cancelled, "cancelled by nobody"
        elif isinstance(outcome, WorkerLost):
            assert kills > self.epoch, "no worker was killed since"
        elif self.func is fails:
            assert isinstance(outcome, LookupError) and outcome.args == (self.number,)
        elif self.func is never:
            raise AssertionError(f"what never ends gave {outcome!r}")
        else:
            assert outcome == GIVES[self.func](self.number), repr(outcome)


class PoolMachine(RuleBasedStateMachine):
    """A pool that is used in whatever order."""

    calls = Bundle("calls")
    worker_loop = None  # set by the test

    def __init__(self):
        super().__init__()
        self.pool = None
        self.loop = Loop()
        self.open = []  # calls whose end has not been looked at
        self.kills = 0
        self.workers = WORKERS
        self.closed = False

    @initialize(lazy=st.booleans(), qsize=st.integers(1, 4))
    def start(self, lazy, qsize):
        self.pool = Pool(WORKERS, qsize=qsize, lazy_create=lazy, worker_loop=self.worker_loop)

    # --- single tasks

    @precondition(lambda self: not self.closed)
    @rule(target=calls, func=st.sampled_from([*GIVES, fails]), number=st.integers(0, 99),
          times=st.integers(1, 5))
    def submit(self, func, number, times):
        return multiple(*[self._add(self.pool.submit(func, number), func, number)
                          for _ in range(times)])

    @precondition(lambda self: not self.closed)
    @rule(target=calls, func=st.sampled_from([*GIVES, fails, never]), number=st.integers(0, 99))
    def run_async(self, func, number):
        async def send():
            self.pool.submit  # noqa: B018  # the pool has a thread of its own by now
            return self.pool.run_async(func, number)

        self.pool.submit(tasks.nothing)  # a lazy pool would move to the loop that asks first
        call = self._add(self.loop.do(send()), func, number)
        if func is never:
            self.cancel(call)
        return call

    def _add(self, future, func, number):
        call = Call(future, func, number, self.kills)
        self.open.append(call)
        return call

    @precondition(lambda self: not self.closed)
    @rule(number=st.integers(0, 99))
    def run(self, number):
        """No kill is under way that could hit it, once all workers answer."""
        self.settle()
        assert self.pool.run(tasks.double, number) == number * 2

    @rule(call=calls)
    def cancel(self, call):
        async def on_its_loop():
            return call.future.cancel()

        if call not in self.open:
            return
        call.cancelled = True
        if isinstance(call.future, concurrent.futures.Future):
            call.future.cancel()
        else:
            self.loop.do(on_its_loop())

    @rule(call=calls)
    def result(self, call):
        if call in self.open:
            self.open.remove(call)
            call.check(self._outcome(call), self.kills)

    def _outcome(self, call):
        async def of_task():
            async with asyncio.timeout(DEADLINE):
                return await call.future

        try:
            if isinstance(call.future, concurrent.futures.Future):
                return call.future.result(DEADLINE)
            return self.loop.do(of_task())
        except TimeoutError:
            raise AssertionError(f"{call.func.__name__}({call.number}) hangs") from None
        except BaseException as exc:
            return exc

    @precondition(lambda self: not self.closed)
    @rule(seconds=st.sampled_from([0.0, 0.001, 0.01]))
    def time_out(self, seconds):
        async def main():
            async with asyncio.timeout(seconds):
                await self.pool.run_async(never, 1)

        self.pool.submit(tasks.nothing)
        with pytest.raises((TimeoutError, WorkerLost)) as failure:
            self.loop.do(main())
        assert failure.type is TimeoutError or self.kills

    # --- maps

    @precondition(lambda self: not self.closed)
    @rule(size=st.integers(0, 300), ordered=st.booleans(), take=st.integers(0, 400),
          chunksize=st.sampled_from([None, 1, 7]), asynchronous=st.booleans())
    def map(self, size, ordered, take, chunksize, asynchronous):
        options = {"ordered": ordered, "chunksize": chunksize}
        found = []

        async def async_take():
            results = self.pool.map_async(tasks.double, range(size), **options)
            async for result in results:
                found.append(result)
                if len(found) > take:
                    await results.aclose()

        try:
            if asynchronous:
                self.pool.submit(tasks.nothing)
                self.loop.do(async_take())
            else:
                results = self.pool.map(tasks.double, range(size), **options)
                for result in results:
                    found.append(result)
                    if len(found) > take:
                        results.close()
        except WorkerLost:
            assert self.kills
            complete = False
        else:
            complete = take >= size
        expected = [2 * n for n in range(size)]
        if ordered:
            assert found == expected[:len(found)]
        assert len(set(found)) == len(found) and set(found) <= set(expected)
        assert not complete or len(found) == size

    # --- what happens to the pool

    # a precondition may ask the model only: hypothesis has to find the same rules in each replay
    @precondition(lambda self: not self.closed)
    @rule()
    def kill(self):
        if not self.pool.is_ready():
            return
        pids = [record.pid for record in list(self.pool._home.supervisor._workers.values())
                if record.ready]
        if pids:
            self.kills += 1
            with contextlib.suppress(ProcessLookupError):
                os.kill(random.choice(pids), signal.SIGKILL)

    @precondition(lambda self: not self.closed)
    @rule(workers=st.integers(1, 3))
    def scale(self, workers):
        """No worker that was killed is in the way, once all of them answer."""
        self.settle()
        self.pool.scale(workers)
        self.workers = workers
        assert self.pool.total_workers() == workers

    @precondition(lambda self: not self.closed)
    @rule()
    def settle(self):
        """In the end all workers are there and answer."""
        def all_answer():
            try:
                return self.pool.run_on_all(tasks.double, 1) == [2] * self.workers
            except WorkerLost:
                return False

        wait_until(all_answer, what="all workers to answer")

    @rule(wait=st.booleans(), cancel=st.booleans())
    def shut_down(self, wait, cancel):
        if cancel:
            for call in self.open:
                call.cancelled = True
        self.pool.shutdown(wait=wait, cancel_futures=cancel)
        self.closed = True

    @precondition(lambda self: self.closed)
    @rule()
    def use_after_shutdown(self):
        for use in (lambda: self.pool.submit(abs, 1), lambda: self.pool.map(abs, [1]),
                    lambda: self.pool.run(abs, 1)):
            with pytest.raises(RuntimeError, match="after shutdown"):
                use()

    @invariant()
    def no_more_workers_than_asked_for(self):
        assert self.pool is None or self.pool.total_workers() <= self.workers

    def teardown(self):
        if self.pool is not None:
            self.pool.shutdown()
            calls, self.open = self.open, []
            for call in calls:
                outcome = self._outcome(call)
                if not isinstance(outcome, PoolStartError):
                    call.check(outcome, self.kills)
        self.loop.close()


@pytest.mark.timeout(600)
def test_the_pool_does_what_the_model_says(loop_type):
    PoolMachine.worker_loop = loop_type
    PoolMachine.TestCase.settings = settings(
        max_examples=so_much(plain=4, thorough=30), stateful_step_count=so_much(plain=20, thorough=40),
        deadline=None, suppress_health_check=list(HealthCheck))
    PoolMachine.TestCase("runTest").runTest()
