"""What is measured of a pool, in a child. Every function returns figures in seconds and bytes."""

import contextlib
import fcntl
import functools
import gc
import heapq
import math
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench import kinds, tasks, usage
from bench.session import Session

Figures = dict[str, Any]

BIN = 1.05  # a bin of a histogram is that much wider than the one before
WARM_UP_CALLS = 200


def _count(
    session: Session, key: Any, run: Callable[[int], Any], seconds: float, least: int, most: int
) -> int:
    """How many tasks take that long; found by trying, once in a session, which warms up too."""
    if key not in session.counts:
        count, taken = least, 0.0
        while True:
            start = time.perf_counter()
            run(count)
            taken = time.perf_counter() - start
            if taken > seconds / 5 or count >= most:
                break
            count = min(most, count * 4)
        session.counts[key] = max(least, min(most, int(count * seconds / taken)))
    return session.counts[key]


# --- throughput


def single(session: Session, in_flight: int, seconds: float, warm_up: int = 0) -> Figures:
    """Tiny tasks with a future each."""
    pool = session.pool()
    assert pool.call(tasks.double, 21) == 42
    if in_flight not in session.counts:
        pool.burst(tasks.double, range(warm_up), in_flight)

    def burst(count: int) -> None:
        pool.burst(tasks.double, range(count), in_flight)

    count = _count(session, in_flight, burst, seconds, 200, 1_000_000)
    with usage.Meter() as meter:
        burst(count)
    return {"per_second": count / meter.wall, "cpu": meter.cpu / count, "tasks": count}


def of_kind(
    session: Session, kind: str, of_script: bool, in_flight: int, seconds: float
) -> Figures:
    """Tiny tasks with a future each, of one kind of function: of a module, or of the script."""
    if not session.functions:  # before the pool, which may fork
        main = vars(sys.modules["__main__"])
        exec(compile(Path(kinds.__file__).read_text(), kinds.__file__, "exec"), main)
        session.functions = {False: kinds.FUNCTIONS, True: main["FUNCTIONS"]}
    func, argument = session.functions[of_script][kind]
    pool = session.pool()
    assert pool.call(func, argument(21)) == 42
    count = _count(
        session, (kind, of_script),
        lambda count: pool.burst(func, [argument(i) for i in range(count)], in_flight),
        seconds, 200, 1_000_000)
    arguments = [argument(i) for i in range(count)]
    start = time.perf_counter()
    pool.burst(func, arguments, in_flight)
    rate = count / (time.perf_counter() - start)
    return {"per_second": rate, **describe(pool.time_calls(func, argument(1), 1000, seconds))}


def mapped(
    session: Session, chunksize: int | None, seconds: float, ordered: bool = True
) -> Figures:
    """A map of the tiny function."""
    pool = session.pool()
    if (chunksize, ordered) not in session.counts:
        results = pool.results(tasks.double, range(100), chunksize, ordered)
        if sorted(results) != list(range(0, 200, 2)):
            raise AssertionError("the results of a map are wrong")

    def consume(count: int) -> None:
        pool.consume(tasks.double, range(count), chunksize, ordered)

    least = max(200, 4 * (chunksize or 1) * session.workers)
    count = _count(session, (chunksize, ordered), consume, seconds, least, max(least, 4_000_000))
    with usage.Meter() as meter:
        consume(count)
    return {"per_second": count / meter.wall, "cpu": meter.cpu / count, "tasks": count}


# --- latency


def describe(taken: list[float]) -> Figures:
    """Percentiles and a histogram of durations; bin k begins at BIN ** k microseconds."""
    taken = sorted(taken)
    bins: dict[int, int] = {}
    for seconds in taken:
        k = math.floor(math.log(seconds * 1e6, BIN))
        bins[k] = bins.get(k, 0) + 1
    percentiles = {
        f"p{p}": taken[min(len(taken) - 1, len(taken) * p // 100)] for p in (50, 90, 99)}
    return {**percentiles, "calls": len(taken), "histogram": bins}


def latency(session: Session, calls: int, seconds: float, apart: bool = False) -> Figures:
    """One tiny task at a time; apart: this process on one CPU, and the workers on another."""
    pool = session.pool()
    if apart:
        here, there = session.two_cpus()
        for pid in usage.tree(os.getpid()):
            usage.pin(pid, here if pid == os.getpid() else there)
    pool.time_calls(tasks.double, 1, WARM_UP_CALLS, seconds / 4)
    with usage.Meter() as meter:
        taken = pool.time_calls(tasks.double, 1, calls, seconds)
    return {**describe(taken), "cpu": meter.cpu / len(taken)}


def idle(session: Session, settle: float, seconds: float) -> Figures:
    """CPU that a pool uses when it has had nothing to do for some time."""
    session.pool().call(tasks.double, 1)
    time.sleep(settle)
    with usage.Meter() as meter:
        time.sleep(seconds)
    return {"load": meter.cpu / meter.wall}


# --- durations that differ


def durations(kind: str, scale: float) -> list[float]:
    """Seconds that the calls of a map take; the same in each round."""
    if kind == "random":  # 1 us to 100 ms, log-uniform
        choose = random.Random(1).uniform
        return [10 ** choose(-6, -1) for _ in range(int(600 * scale))]
    short, long = [1e-5] * int(20_000 * scale), [1e-2] * int(200 * scale)
    return short + long if kind == "rise" else long + short


def greedy(taken: list[float], workers: int) -> float:
    """The total time when each worker that is free takes the next task, at no cost."""
    free = [0.0] * workers
    for seconds in taken:
        heapq.heapreplace(free, free[0] + seconds)
    return max(free)


def mixed(session: Session, kind: str, scale: float, chunksize: int | None = None) -> Figures:
    """A map whose calls take different times, against the ideal greedy schedule of these."""
    pool = session.pool()
    items = durations(kind, scale)
    pool.results(tasks.spend, [1e-5] * 100, chunksize, True)
    start = time.perf_counter()
    taken = pool.results(tasks.spend, items, chunksize, True)
    total = time.perf_counter() - start
    ideal = greedy(taken, session.workers)
    return {"total": total, "ideal": ideal, "over": total / ideal}


def first(session: Session, before: float, chunksize: int | None = None) -> Figures:
    """When the first result comes of a map of slow calls; calls before that took other times."""
    pool = session.pool()
    pool.results(tasks.spend, [before] * min(5000, int(0.1 / before)), chunksize, True)
    start = time.perf_counter()
    results = iter(pool.map(tasks.spend, [0.03] * 20, chunksize, True))
    next(results)
    taken = time.perf_counter() - start
    for _ in results:
        pass
    return {"first": taken}


# --- large data


def data(session: Session, size: int, seconds: float) -> Figures:
    """A float64 array to a worker and back."""
    import numpy

    if usage.available() < 8 * size:
        raise MemoryError("too little memory for this size")
    pool = session.pool()
    array = numpy.ones(size // 8)
    pool.call(tasks.identity, numpy.ones(1))
    had = {}
    for pid in usage.tree(os.getpid()):
        with contextlib.suppress(OSError):
            usage.reset_peak(pid)
            had[pid] = usage.resident(pid)
    begin = time.perf_counter()
    result = pool.call(tasks.identity, array)
    taken = [time.perf_counter() - begin]
    peak = max(_peaks(had))  # of the process that needs most, beyond what it had
    if result.shape != array.shape or result[-1] != 1:
        raise AssertionError("the array has changed on its way")
    figures: Figures = {"peak": peak, "writable": bool(result.flags.writeable)}
    del result
    if size >= 1 << 20:  # below that it is mostly rounding to pages
        figures["peak_ratio"] = peak / size
    if size <= 64 << 20:
        figures["writable"] &= pool.call(tasks.is_writable, array)
    if taken[0] < 8:  # else once is enough
        seconds = max(seconds, 2 * taken[0])
        pool.time_calls(tasks.identity, array, 3, seconds / 4)
        with usage.Meter() as meter:
            taken = pool.time_calls(tasks.identity, array, 1000, seconds)
        figures["cpu_per_byte"] = meter.cpu / (2 * size * len(taken))
    return {"bytes_per_second": 2 * size / statistics.median(taken), **figures}


def one_way(session: Session, size: int, seconds: float) -> Figures:
    """A float64 array to a worker, and one from a worker."""
    import numpy

    pool = session.pool()
    array = numpy.ones(size // 8)
    if pool.call(tasks.length, array) != len(array) or len(pool.call(tasks.ones, 8)) != 8:
        raise AssertionError("the array has changed on its way")
    for _ in range(2 * session.workers):
        pool.call(tasks.ones, size // 8)
    return {
        name: size / statistics.median(pool.time_calls(func, arg, 100, max(seconds, 1e-9)))
        for name, func, arg in (
            ("to_worker", tasks.length, array), ("from_worker", tasks.ones, size // 8))}


def _peaks(had: dict[int, int]) -> list[int]:
    """By how much each process has grown at most, from what it had."""
    peaks = []
    for pid, before in had.items():
        with contextlib.suppress(OSError):
            peaks.append(usage.peak(pid) - before)
    return peaks


# --- trouble


GRACE = 0.1  # seconds


def mishap(session: Session, kind: str, times: int) -> Figures:
    """How soon the next task runs after a worker was killed, or its task was given up; seconds
    that were asked for do not count. The worst of several times.

    kinds:
        killed: the worker, with SIGKILL. ``told`` is when the caller knows.
        cancelled, timed out: the task, and the function is interrupted.
        stubborn: cancelled, but the function takes no notice, and is ended with its worker.
    """
    pool = session.pool().raw
    next_runs, told = [], []
    with tempfile.TemporaryDirectory() as folder:
        for i in range(times):
            begun = os.path.join(folder, str(i))
            asked: dict[str, Any] = {"cancel_running": "interrupt", "grace": GRACE}
            if kind == "timed out":
                asked["timeout"] = 0.1
            spin = tasks.spin_stubbornly if kind == "stubborn" else tasks.spin
            (pid,) = pool.run_on_all(os.getpid)
            submitted = time.monotonic()
            future = pool.options(**asked).submit(spin, begun)
            following = pool.submit(tasks.clock)
            while not os.path.exists(begun):
                time.sleep(0.001)
            began = time.monotonic()
            if kind == "killed":
                os.kill(pid, signal.SIGKILL)
                future.exception()
                told.append(time.monotonic() - began)
            elif kind == "timed out":
                began = submitted + asked["timeout"]
            else:
                future.cancel()
                began += GRACE if kind == "stubborn" else 0
            next_runs.append(following.result() - began)
    return {"next": max(next_runs), **({"told": max(told)} if told else {})}


def cost(
    session: Session, asked: dict[str, Any], options: dict[str, Any], in_flight: int,
    seconds: float, pairs: int
) -> Figures:
    """Single tasks of which something is asked, against those of which nothing is, in turns."""
    assert session.peer is not None
    pool = session.pool()
    other = session.peer(session.workers, asked=asked, **options)
    try:
        count = _count(session, in_flight, lambda count: pool.burst(
            tasks.double, range(count), in_flight), seconds, 200, 1_000_000)
        other.burst(tasks.double, range(count), in_flight)
        ratios = []
        for _ in range(pairs):
            taken = []
            for each in (pool, other):
                start = time.perf_counter()
                each.burst(tasks.double, range(count), in_flight)
                taken.append(time.perf_counter() - start)
            ratios.append(taken[0] / taken[1])
    finally:
        other.close()
    return {"kept": statistics.median(ratios)}


def recovery(session: Session, seconds: float, storm: float) -> Figures:
    """Single tasks while a worker is killed every 50 ms, and in the second after the last kill,
    against those before."""
    pool = session.pool()
    kill = session.pool().raw
    count = _count(session, "recovery", lambda count: pool.burst(
        tasks.double, range(count), 1000), seconds, 200, 1_000_000)

    def rate(for_seconds: float) -> float:
        done, began = 0, time.perf_counter()
        while (taken := time.perf_counter() - began) < for_seconds:
            pool.burst(tasks.double, range(count), 1000)
            done += count
        return done / taken

    before = rate(1.0)
    stop = threading.Event()

    def kill_workers() -> None:
        while not stop.wait(0.05):
            if pids := [worker.pid for worker in kill.workers()]:
                os.kill(random.choice(pids), signal.SIGKILL)

    killer = threading.Thread(target=kill_workers)
    killer.start()
    during = rate(storm)
    stop.set()
    killer.join()
    return {"before": before, "during": during / before, "after": rate(1.0) / before}


# --- starting


def start(session: Session) -> Figures:
    """Time to import beyond that of asyncio; from making a pool to its first result."""
    assert session.peer is not None
    code = ("import asyncio, sys, time; start = time.perf_counter(); "
            f"import {session.peer.module}; print(time.perf_counter() - start)")
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    __import__(session.peer.module)
    begin = time.perf_counter()
    pool = session.open(session.workers)
    try:
        pool.call(tasks.double, 1)
        taken = time.perf_counter() - begin
    finally:
        pool.close()
    return {"import": float(output), "first": taken}


def workers(session: Session, count: int, naps: bool = False) -> Figures:
    """Many workers: until all are ready, what memory each has, and a task of 1 s on each."""
    begin = time.perf_counter()
    pool = session.open(count)
    try:
        if not pool.waits_ready:
            _meet(pool, count)
        figures: Figures = {"ready": time.perf_counter() - begin}
        own = []
        for pid in usage.tree(os.getpid())[1:]:
            with contextlib.suppress(OSError):
                own.append(usage.private(pid))
        figures["private"] = statistics.median(own)
        if naps:
            begin = time.perf_counter()
            pool.burst(tasks.nap, [1.0] * count, count)
            figures["naps"] = time.perf_counter() - begin
    finally:
        begin = time.perf_counter()
        pool.close()
    figures["stop"] = time.perf_counter() - begin
    return figures


def _meet(pool: Any, count: int) -> None:
    """Wait until that many workers run a task at the same time."""
    with tempfile.TemporaryDirectory() as folder:
        os.mkfifo(os.path.join(folder, "arrived"))
        arrived = os.open(os.path.join(folder, "arrived"), os.O_RDWR)
        with open(os.path.join(folder, "gate"), "w") as gate:
            fcntl.flock(gate, fcntl.LOCK_EX)
            waiting = [pool.start(tasks.arrive, folder) for _ in range(count)]
            come = 0
            while come < count:
                come += len(os.read(arrived, count - come))
            os.close(arrived)
            # workers that were forked from here have the lock too, until it is given up by name
            fcntl.flock(gate, fcntl.LOCK_UN)
        for future in waiting:
            pool.wait(future)


# --- cost that stays flat


def flat(session: Session, count: int, in_flight: int) -> Figures:
    """CPU for each of count tasks, so many in flight; memory of one, if all are at once."""
    pool = session.pool()
    pool.burst(tasks.double, range(1000), 1000)
    gc.collect()
    figures: Figures = {}

    def args() -> Iterator[int]:
        for _ in range(count):
            yield 1
        # taken by the loop after the last task was sent, before it waits for one
        if in_flight >= count:
            figures["memory"] = (usage.resident(os.getpid()) - before) / count

    before = usage.resident(os.getpid())
    with usage.Meter() as meter:
        pool.burst(tasks.double, args(), in_flight)
    return {"cpu": meter.cpu / count, "per_second": count / meter.wall, **figures}


def constant(session: Session, size: int, calls: int) -> Figures:
    """How often a constant in a functools.partial is pickled and unpickled, and if it is kept."""
    pool = session.open(session.workers)
    try:
        value = tasks.Constant(bytes(size))
        alive = weakref.ref(value)
        tasks.Constant.pickled = 0
        bound = functools.partial(tasks.use_constant, value)
        begin = time.perf_counter()
        results = pool.results(bound, range(calls), None, True)
        taken = time.perf_counter() - begin
    finally:
        pool.close()
    unpickled = {pid: times for pid, times, _ in results}
    del value, bound
    gc.collect()
    return {
        "seconds": taken,
        "pickled": tasks.Constant.pickled,
        "unpickled": max(unpickled.values()),
        "kept": alive() is not None,
    }
