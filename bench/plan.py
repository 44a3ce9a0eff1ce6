"""The experiments: who takes part in which way, and with what the measurements are called.

An experiment is a table: a row for each peer and way to use it, a column for each case.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from bench.kinds import FUNCTIONS

KB, MB, GB = 1 << 10, 1 << 20, 1 << 30

CHUNKSIZES = (1, 10, 100, 1000, 10_000, 100_000)
PING = "raw socketpair ping-pong (C)"
LOOP_PING = "ping-pong of two bare event loops (uvloop)"
POLL_PING = "busy-polling ping-pong (C)"
THERE = "'for' alone, over results that are there"
THERE_ASYNC = "'async for' alone, over results that are there"
LOOPS_ALONE = {THERE, THERE_ASYNC}
OF_SCRIPT = " of a script"
SIZES = (KB, 4 * KB, 16 * KB, 64 * KB, 256 * KB, MB, 4 * MB, 16 * MB, 64 * MB, 256 * MB, GB)


@dataclass(frozen=True)
class Figure:
    """What is shown of a measurement."""

    key: str
    title: str
    unit: str  # how report.py writes it
    better: int = -1  # 1: more is better, -1: less is better, 0: neither


@dataclass(frozen=True)
class Row:
    """A peer and the way in which it is used."""

    peer: str
    way: str = ""
    args: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)  # to make the pool with
    measure: str | None = None  # instead of the experiment's
    most: int | None = None  # leave out the cases that are a larger number than that
    only: tuple[str, ...] | None = None  # take part in these cases alone

    @property
    def base(self) -> str:
        """The peer, however it is used."""
        return self.peer.removesuffix(" async").removesuffix(" spawn").removesuffix(" ssh")

    @property
    def label(self) -> str:
        """What stands before the row; no other in its experiment has the same."""
        if self.peer == "limits":
            return self.way
        return f"{self.peer.removesuffix(' async')} {self.way}".strip()


@dataclass(frozen=True)
class Experiment:
    """A table to be filled. Rows are compared with the first one."""

    name: str
    title: str
    measure: str
    rows: tuple[Row, ...]
    figures: tuple[Figure, ...]
    cases: dict[str, dict[str, Any]] = field(default_factory=lambda: {"": {}})
    workers: int = 1
    pinned: bool = False
    timeout: float = 60.0  # seconds for one measurement
    sshd: bool = False  # there is one, for remote workers
    fresh: bool = False  # a new child for each measurement: what a program does once
    best: bool = False  # show the best case of each row, against the first case of the first

    def takes(self, row: Row, case: str) -> bool:
        """Whether the row has that column."""
        if row.only is not None:
            return case in row.only
        number = max([0, *(v for v in self.cases[case].values() if isinstance(v, int))])
        return row.most is None or number <= row.most


DISTEX = (Row("distex async", "run_async"), Row("distex", "submit"))
SUBMITTERS = (
    Row("ProcessPoolExecutor", "submit"),
    Row("multiprocessing.Pool", "apply_async"),
    Row("loky", "submit"),
    Row("mpire", "apply_async"),
    Row("Pebble", "schedule"),
)
UNORDERED = {"ordered": False}
PER_SECOND = Figure("per_second", "tasks/s", "count", 1)
CPU = Figure("cpu", "CPU per task, client and workers", "seconds")


def _single(workers: int, seconds: float, quick: bool) -> Experiment:
    return Experiment(
        f"single/{workers}",
        f"Single tasks, 1,000 in flight, {_workers(workers)}",
        "single",
        (
            *DISTEX,
            Row("distex 0.7.2 async", "run_async"),
            Row("distex 0.7.2 async", "run_async, qsize=100", options={"qsize": 100}),
            Row("distex 0.7.2 async", "map_async, qsize=100", options={"qsize": 100},
                measure="mapped", args={"chunksize": None}),
            *(SUBMITTERS[:2] if quick else SUBMITTERS),
            *(() if quick else (Row("Ray", "remote"), Row("Dask", "submit"))),
        ),
        (PER_SECOND, CPU),
        {"": {"in_flight": 1000, "seconds": seconds}},
        workers,
    )


def _kinds(seconds: float) -> Experiment:
    return Experiment(
        "kinds",
        "Single tasks by where their function comes from, 2 workers",
        "of_kind",
        (*DISTEX, SUBMITTERS[0], Row("loky", "submit")),
        (
            Figure("per_second", "tasks/s, 1,000 in flight", "count", 1),
            Figure("p50", "one at a time (distex submit: by run), p50", "seconds"),
        ),
        {kind + OF_SCRIPT * of_script: {
            "kind": kind, "of_script": of_script, "in_flight": 1000, "seconds": seconds}
         for kind in FUNCTIONS for of_script in (False, True)},
        workers=2,
    )


def _map(workers: int, seconds: float, quick: bool) -> Experiment:
    chunksizes = (1, 100, 10_000, 100_000) if quick else CHUNKSIZES
    cases: dict[str, dict[str, Any]] = {"default": {"chunksize": None, "seconds": seconds}}
    for chunksize in chunksizes:
        cases[f"{chunksize:,}"] = {"chunksize": chunksize, "seconds": seconds}
    more = (
        Row("loky", "map"),
        Row("joblib", "Parallel"),
        Row("mpire", "map"),
        Row("Pebble", "map"),
        Row("Ray", "Pool.map", only=("default", "10,000")),
        Row("Dask", "map", only=("default", "1,000")),
    )
    return Experiment(
        f"map/{workers}",
        f"map of a tiny function by chunksize, {_workers(workers)}",
        "mapped",
        (
            Row("distex", "map"),
            Row("distex", "map, unordered", UNORDERED),
            Row("distex async", "map_async"),
            Row("distex async", "map_async, unordered", UNORDERED),
            Row("distex 0.7.2", "map"),
            Row("distex 0.7.2 async", "map_async"),
            Row("distex 0.7.2 async", "map_async, qsize=100", options={"qsize": 100}),
            Row("limits", THERE, measure="go_through", only=("default",)),
            Row("limits", THERE_ASYNC, {"asynchronous": True}, measure="go_through",
                only=("default",)),
            Row("ProcessPoolExecutor", "map"),
            Row("multiprocessing.Pool", "map"),
            *(() if quick else (Row("multiprocessing.Pool", "imap_unordered", UNORDERED), *more)),
        ),
        (PER_SECOND, CPU),
        cases,
        workers,
        best=True,
    )


def _latency(pinned: bool, calls: int, quick: bool) -> Experiment:
    light = (
        Row("ProcessPoolExecutor", "submit"),
        Row("multiprocessing.Pool", "apply"),
        *(() if quick else (Row("loky", "submit"), Row("Pebble", "schedule"))),
    )
    heavy = () if quick or pinned else (Row("Ray", "remote"), Row("Dask", "submit"))
    spinning = () if pinned else (
        Row("distex async", "run_async, spin", options={"spin": 0.01}),
        Row("distex", "run, spin", options={"spin": 0.01}),
    )
    polling = () if pinned else (Row("limits", POLL_PING, measure="poll"),)
    return Experiment(
        f"latency/{'pinned' if pinned else 'unpinned'}",
        "Latency of one tiny task, " + (
            "everything on one CPU" if pinned else "client and worker on any CPU"),
        "latency",
        (
            Row("distex async", "run_async"),
            Row("distex", "run"),
            *spinning,
            Row("limits", PING, measure="ping"),
            *polling,
            Row("limits", LOOP_PING, measure="loop_ping"),
            Row("distex 0.7.2 async", "run_async"),
            Row("distex 0.7.2", "run"),
            *light,
            *heavy,
        ),
        (
            Figure("p50", "p50", "seconds"),
            Figure("p90", "p90", "seconds"),
            Figure("p99", "p99", "seconds"),
            CPU,
        ),
        {"": {"calls": calls, "seconds": calls / 2000}},
        pinned=pinned,
    )


def _apart(calls: int) -> Experiment:
    """What busy polling is for. Left alone the kernel often puts client and worker on one CPU,
    where to wake the other is cheap, and then there is little to gain."""
    return Experiment(
        "latency/apart",
        "Latency of one tiny task, client and worker on a CPU each",
        "latency",
        (
            Row("distex async", "run_async"),
            Row("distex", "run"),
            Row("distex async", "run_async, spin", options={"spin": 0.01}),
            Row("distex", "run, spin", options={"spin": 0.01}),
            Row("limits", PING, measure="ping"),
            Row("limits", POLL_PING, measure="poll"),
            Row("limits", LOOP_PING, measure="loop_ping"),
        ),
        (Figure("p50", "p50", "seconds"), Figure("p99", "p99", "seconds"), CPU),
        {"": {"calls": calls, "seconds": calls / 2000, "apart": True}},
    )


def _idle() -> Experiment:
    return Experiment(
        "idle",
        "CPU used with nothing to do",
        "idle",
        (
            Row("distex async", "spin", options={"spin": 0.01}),
            Row("distex async", "no spin"),
            Row("ProcessPoolExecutor"),
        ),
        (Figure("load", "of one CPU", "share"),),
        {"": {"settle": 0.1, "seconds": 0.5}},
    )


def _mixed(scale: float) -> Experiment:
    return Experiment(
        "mixed",
        "map of calls that take different times, total time over the ideal greedy schedule, "
        "2 workers",
        "mixed",
        (
            Row("distex", "map"),
            Row("distex", "map, chunksize=1", {"chunksize": 1}),
            Row("distex 0.7.2", "map"),
            Row("ProcessPoolExecutor", "map"),
            Row("multiprocessing.Pool", "map"),
        ),
        (Figure("over", "total / ideal", "ratio"),),
        {
            "1 µs to 100 ms at random": {"kind": "random", "scale": scale},
            "10 µs, then 10 ms": {"kind": "rise", "scale": scale},
            "10 ms, then 10 µs": {"kind": "fall", "scale": scale},
        },
        workers=2,
    )


def _first() -> Experiment:
    return Experiment(
        "first",
        "First result of a map of 30 ms calls, 2 workers",
        "first",
        (
            Row("distex", "map"),
            Row("distex", "map, chunksize=1", {"chunksize": 1}),
            Row("ProcessPoolExecutor", "map"),
        ),
        (Figure("first", "first result", "seconds"),),
        {
            "calls before took 30 ms": {"before": 0.03},
            "calls before took 10 µs": {"before": 1e-5},
        },
        workers=2,
    )


def _data(sizes: Iterable[int], seconds: float, quick: bool) -> Experiment:
    return Experiment(
        "data",
        "A float64 array to a worker and back, both ways counted",
        "data",
        (
            Row("distex async", "run_async"),
            Row("limits", "memcpy (C)", measure="memcpy"),
            Row("limits", "fresh memory (C)", measure="fresh"),
            Row("limits", "Unix socket there and back (C)", measure="echo"),
            Row("distex 0.7.2 async", "run_async"),
            Row("ProcessPoolExecutor", "submit", most=256 * MB),  # takes many seconds for more
            Row("multiprocessing.Pool", "apply", most=256 * MB),
            *(() if quick else (
                Row("loky", "submit", most=256 * MB),
                Row("Ray", "remote (read-only)"),
                Row("Ray", "remote (copied, writable)", options={"copy": True}),
                Row("Dask", "submit"),
            )),
        ),
        (
            Figure("bytes_per_second", "bandwidth", "bandwidth", 1),
            Figure("peak_ratio", "peak extra memory of a process / payload", "ratio"),
            Figure("cpu_per_byte", "CPU per byte, client and worker", "seconds"),
            Figure("writable", "writable on arrival, there and back", "plain"),
        ),
        {size_label(size): {"size": size, "seconds": seconds} for size in sizes},
        timeout=120,
    )


def _start(quick: bool) -> Experiment:
    return Experiment(
        "start",
        "Start: import, and from a program's first Pool(2) to its first result",
        "start",
        (
            Row("distex", "sync"),
            Row("distex async", "async"),
            Row("limits", "python -c 'import asyncio, uvloop'", measure="import_asyncio"),
            Row("distex 0.7.2 async"),
            Row("ProcessPoolExecutor"),
            Row("ProcessPoolExecutor spawn"),
            Row("multiprocessing.Pool"),
            *(() if quick else (
                Row("loky"), Row("mpire"), Row("Pebble"), Row("Ray"), Row("Dask"))),
        ),
        (
            Figure("import", "import, beyond asyncio", "seconds"),
            Figure("first", "first result", "seconds"),
        ),
        workers=2,
        fresh=True,
    )


def _many(counts: Iterable[int], quick: bool) -> Experiment:
    return Experiment(
        "workers",
        "Workers ready, by their number",
        "workers",
        (
            Row("distex"),
            Row("limits", "fork", measure="fork"),
            Row("distex 0.7.2 async", most=30),
            Row("ProcessPoolExecutor", most=300),
            Row("ProcessPoolExecutor spawn", most=30),
            Row("multiprocessing.Pool", most=1000),
            *(() if quick else (Row("loky", most=30), Row("mpire", most=100))),
        ),
        (
            Figure("ready", "ready", "seconds"),
            Figure("private", "private memory of each (median)", "bytes"),
            Figure("naps", "a task of 1 s on each", "seconds"),
            Figure("stop", "shutdown", "seconds"),
        ),
        {f"{count:,}": {"count": count, "naps": count >= 1000} for count in counts},
        timeout=180,
    )


def _flat(many: int, quick: bool) -> list[Experiment]:
    rows = DISTEX[:1] if quick else DISTEX
    cpu = (CPU, Figure("per_second", "tasks/s", "count", 1))
    return [
        Experiment(
            "flat/tasks",
            f"{many:,} tasks, 1,000 or all of them in flight, 2 workers",
            "flat",
            rows,
            (*cpu, Figure("memory", "memory of one in flight, with its arguments", "bytes")),
            {
                "1,000": {"count": many, "in_flight": 1000},
                "all": {"count": many, "in_flight": many},
            },
            workers=2,
            timeout=180,
        ),
        *(
            Experiment(
                f"flat/{workers}",
                f"{many // 2:,} tasks, {many // 10:,} in flight, {_workers(workers)}",
                "flat",
                rows,
                cpu,
                {"": {"count": many // 2, "in_flight": many // 10}},
                workers=workers,
                timeout=180,
            )
            for workers in (2, 100 if quick else 1000)
        ),
    ]


def _constant(size: int) -> Experiment:
    return Experiment(
        "constant",
        f"map with {size_label(size)} bound by functools.partial, 2 workers",
        "constant",
        (Row("distex", "map"), Row("distex async", "map_async")),
        (
            Figure("seconds", "map", "seconds"),
            Figure("pickled", "times pickled", "plain"),
            Figure("unpickled", "times unpickled, by a worker", "plain"),
            Figure("kept", "kept after shutdown", "plain"),
        ),
        {"": {"size": size, "calls": 10_000}},
        workers=2,
    )


def _ssh(seconds: float) -> list[Experiment]:
    return [
        Experiment(
            "ssh/tasks",
            "Single tasks over loopback ssh, 1,000 in flight, 2 workers",
            "single",
            (
                Row("distex ssh async", "run_async"),
                Row("distex ssh async", "run_async, 64 workers", options={"remote": 64}),
                Row("distex async", "run_async, no ssh"),
                Row("distex 0.7.2 ssh async", "run_async"),
                Row("distex 0.7.2 ssh async", "run_async, qsize=100", options={"qsize": 100}),
            ),
            (PER_SECOND, CPU),
            {"": {"in_flight": 1000, "seconds": seconds, "warm_up": 20_000}},
            workers=2,
            sshd=True,
        ),
        Experiment(
            "ssh/data",
            "64 MB arrays over loopback ssh, in one direction at a time",
            "one_way",
            (
                Row("distex ssh async", "run_async"),
                Row("distex async", "run_async, no ssh"),
                Row("distex 0.7.2 ssh async", "run_async"),
            ),
            (
                Figure("to_worker", "to the worker", "bandwidth", 1),
                Figure("from_worker", "from the worker", "bandwidth", 1),
            ),
            {"": {"size": 64 * MB, "seconds": 4 * seconds}},
            workers=2,
            sshd=True,
        ),
    ]


def _safety(seconds: float, times: int) -> list[Experiment]:
    retries, timeout = {"retries": 3}, {"timeout": 60}
    interrupt, bounded = {"cancel_running": "interrupt"}, {"max_pending": 1_000_000}
    recycled = {"max_tasks_per_child": 1_000_000_000, "max_memory_per_child": 1 << 40}
    ways: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "retries": (retries, {}),
        "timeout": (timeout, {}),
        "interrupt": (interrupt, {}),
        "max_pending": ({}, bounded),
        "all, and limits of workers": (
            {**retries, **timeout, **interrupt}, {**bounded, **recycled}),
    }
    return [
        Experiment(
            "safety/cost",
            "Throughput of single tasks of which that is asked, against others, 2 workers",
            "cost",
            DISTEX,
            (Figure("kept", "tasks/s, of those without", "ratio", 1),),
            {name: {"asked": asked, "options": options, "in_flight": 1000, "seconds": seconds / 5,
                    "pairs": times}
             for name, (asked, options) in ways.items()},
            workers=2,
        ),
        Experiment(
            "safety/mishap",
            "How soon the next task runs, after ... (the worst of several times)",
            "mishap",
            (Row("distex", "", options={"qsize": 1}),),
            (
                Figure("next", "the next task runs", "seconds"),
                Figure("told", "the caller knows", "seconds"),
            ),
            {title: {"kind": kind, "times": times} for title, kind in (
                ("SIGKILL of the worker", "killed"),
                ("cancel", "cancelled"),
                ("timeout", "timed out"),
                ("cancel, grace period, SIGKILL", "stubborn"))},
        ),
        Experiment(
            "safety/storm",
            "Single tasks with retries, a worker killed every 50 ms, 2 workers",
            "recovery",
            (Row("distex", "submit", options={"retries": 1000}),),
            (
                Figure("before", "before: tasks/s", "count", 1),
                Figure("during", "during the storm / before", "ratio", 1),
                Figure("after", "in the second after the last kill / before", "ratio", 1),
            ),
            {"": {"seconds": 0.02, "storm": 20 * seconds}},
            workers=2,
        ),
    ]


def size_label(size: int) -> str:
    """A power of two in the unit that fits."""
    for unit, name in ((GB, "GB"), (MB, "MB"), (KB, "KB")):
        if size >= unit:
            return f"{size // unit} {name}"
    return f"{size} B"


def _workers(count: int) -> str:
    return f"{count:,} worker" + "s" * (count > 1)


def experiments(quick: bool) -> list[Experiment]:
    """All that is measured; quick: what tells a developer of a change for the worse."""
    if quick:
        return [
            _single(2, 0.2, quick),
            _kinds(0.1),
            _map(2, 0.15, quick),
            _latency(True, 1000, quick),
            _latency(False, 500, quick),
            _apart(500),
            _mixed(0.2),
            _first(),
            _data((KB, 64 * KB, MB, 64 * MB), 0.1, quick),
            _start(quick),
            _many((2, 30, 300), quick),
            *_flat(100_000, quick),
            _constant(10 * MB),
            *_ssh(0.2),
            *_safety(0.2, 5),
        ]
    return [
        _single(1, 0.5, quick),
        _single(2, 0.5, quick),
        _kinds(0.3),
        _map(1, 0.4, quick),
        _map(2, 0.4, quick),
        _latency(True, 5000, quick),
        _latency(False, 5000, quick),
        _apart(5000),
        _idle(),
        _mixed(1.0),
        _first(),
        _data(SIZES, 0.3, quick),
        _start(quick),
        _many((1, 2, 10, 30, 100, 300, 1000, 3000), quick),
        *_flat(1_000_000, quick),
        _constant(100 * MB),
        *_ssh(0.5),
        *_safety(0.5, 20),
    ]
