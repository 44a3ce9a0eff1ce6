"""Storms, races and short lives of pools, one after the other, for as long as one likes:

    make soak SECONDS=3600

prints a line each second, a report of each round, and ends with status 1 if anything went wrong: a
task that got no result or a wrong one, something that was left behind, memory that grew, or a pool
that did not get back to its speed.
"""

import contextlib
import gc
import itertools
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import psutil
from leftovers import nothing_left, own_surroundings
from lives import lives
from races import race
from ssh.support import SSHD, Sshd
from storm import Report, Tally, killer, nanny_pids, storm, worker_pids

from distex import LoopType, Pool

ROUND = 15.0  # seconds
SLOW = 0.5  # of the rate before a storm, that has to be reached within a second after it
GROWTH_BYTES = 64 * 1024 * 1024  # of this process, from the second time all rounds were run on


def show(name: str, kills: int, tally: Tally) -> None:
    """The progress line."""
    print(f"\r{name}: {kills} kills, {tally.done} done, {tally.lost} lost ", end="", flush=True)


def worker_storm(seconds: float, loop: LoopType) -> Report:
    with Pool(4, qsize=4, worker_loop=loop) as pool:
        return storm(pool, killer(partial(worker_pids, pool)), seconds, calm=1.0,
                     progress=partial(show, f"workers, {loop.name}"))


def retried_storm(seconds: float, loop: LoopType) -> Report:
    with Pool(4, qsize=4, worker_loop=loop, retries=50) as pool:
        return storm(pool, killer(partial(worker_pids, pool)), seconds, calm=1.0, retried=True,
                     progress=partial(show, f"workers, with retries, {loop.name}"))


def nanny_storm(seconds: float, loop: LoopType) -> Report:
    with Pool(4, qsize=4, worker_loop=loop) as pool:
        return storm(pool, killer(partial(nanny_pids, pool)), seconds, interval=0.5, calm=1.0,
                     progress=partial(show, f"nanny, {loop.name}"))


@contextlib.contextmanager
def an_sshd() -> Iterator[Sshd]:
    """With a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        sshd = Sshd(Path(folder)).start()
        try:
            yield sshd
        finally:
            sshd.stop()


def sshd_storm(seconds: float, loop: LoopType) -> Report:
    with an_sshd() as sshd, Pool(1, sshd.spec(2), qsize=4, worker_loop=loop) as pool:
        return storm(pool, sshd.cut, seconds, interval=1.0, calm=1.0,
                     progress=partial(show, f"sshd, {loop.name}"))


def remote_nanny_storm(seconds: float, loop: LoopType) -> Report:
    with an_sshd() as sshd, Pool(1, sshd.spec(2), qsize=4, worker_loop=loop) as pool:
        return storm(pool, killer(sshd.nanny_pids), seconds, interval=1.0, calm=1.0,
                     progress=partial(show, f"remote nanny, {loop.name}"))


def races(seconds: float, loop: LoopType) -> str:
    return race(loop, seconds)


def short_lives(seconds: float, loop: LoopType) -> str:
    return str(dict(lives(loop, seconds)))


def main(seconds: float) -> int:
    logging.getLogger("distex").setLevel(logging.CRITICAL)  # each death is a warning
    logging.getLogger("asyncssh").setLevel(logging.CRITICAL)
    rounds: list[Callable[[float, LoopType], object]] = [
        worker_storm, retried_storm, nanny_storm, races, short_lives]
    if SSHD is not None:
        rounds += [sshd_storm, remote_nanny_storm]
    plan = list(itertools.product(rounds, (LoopType.uvloop, LoopType.asyncio)))
    begin = time.monotonic()
    faults: list[str] = []
    kills = tasks = lost = 0
    memory: list[int] = []  # after each time that all rounds were run
    for number, (run, loop) in enumerate(itertools.cycle(plan)):
        left = seconds - (time.monotonic() - begin)
        if left <= 0:
            break
        if number % len(plan) == 0:
            gc.collect()
            memory.append(psutil.Process().memory_info().rss)
        name = f"{run.__name__} under {loop.name}"
        report: object = None
        try:
            with nothing_left():
                report = run(min(ROUND, left), loop)
        except Exception as exc:
            faults.append(f"{name}: {exc!r}")
        print(f"\r{name}: {report}", flush=True)
        if isinstance(report, Report):
            kills += report.kills
            tasks += report.tally.done
            lost += report.tally.lost
            faults += [f"{name}: {fault}" for fault in report.tally.faults]
            if report.after < SLOW * report.before or report.back_seconds > 1:
                print(f"{name}: slow to recover", flush=True)
    if len(memory) > 2 and memory[-1] - memory[1] > GROWTH_BYTES:
        faults.append(f"memory grew: {memory}")
    print(f"{time.monotonic() - begin:.0f} s: {tasks} tasks done and {lost} lost in {kills} kills; "
          f"memory {[size // 2**20 for size in memory]} MiB; {len(faults)} faults")
    print(*faults[:100], sep="\n")
    return 1 if faults else 0


if __name__ == "__main__":
    with own_surroundings():
        status = main(float(os.environ.get("SECONDS") or 300))
    sys.exit(status)
