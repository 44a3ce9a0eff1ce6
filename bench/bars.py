"""What has to hold: each bar with its figure and whether it passes."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bench.kinds import FUNCTIONS
from bench.plan import CHUNKSIZES, LOOP_PING, LOOPS_ALONE, OF_SCRIPT, PING, SIZES, size_label
from bench.report import Medians, written

ASYNC, SUBMIT, MAP = "distex run_async", "distex submit", "distex map"
OLD = "distex 0.7.2"
PPE, MP = "ProcessPoolExecutor", "multiprocessing.Pool"


@dataclass
class Bar:
    """A figure and what it has to be."""

    number: str
    text: str
    figure: float | None  # None: not measured
    limit: float
    least: bool  # whether the limit is the least or the most that is allowed
    only: str  # what to give to --only to measure it again
    unit: str = "ratio"

    @property
    def passed(self) -> bool | None:
        """None: not measured."""
        if self.figure is None:
            return None
        return self.figure >= self.limit if self.least else self.figure <= self.limit

    def __str__(self) -> str:
        state = {True: "pass", False: "FAIL", None: "not measured"}[self.passed]
        figure = "-" if self.figure is None else written(self.figure, self.unit)
        sign = "≥" if self.least else "≤"
        return (f"{self.number:4} {state:12} {figure:>11} {sign} "
                f"{written(self.limit, self.unit):9} {self.text}   [--only {self.only}]")


def _ratio(a: float | None, b: float | None) -> float | None:
    return a / b if a is not None and b else None


def _single(m: Medians) -> Iterator[Bar]:
    for workers in (1, 2):
        name = f"single/{workers}"

        def rate(row: str, name: str = name) -> float | None:
            return m.get(name, row, "", "per_second")

        ours = rate(ASYNC)
        for row, limit in (
            (f"{OLD} run_async", 12.0),
            (f"{OLD} map_async, qsize=100", 8.0),
            (f"{PPE} submit", 50.0),
        ):
            yield Bar("1", f"single tasks, {workers} w: run_async / {row}",
                      _ratio(ours, rate(row)), limit, True, name)
        yield Bar("1", f"single tasks, {workers} w: submit / run_async",
                  _ratio(rate(SUBMIT), ours), 0.5, True, name)
        yield Bar("aim", f"single tasks a second, {workers} w", ours, 1e6, True, name, "count")


def _kinds(m: Medians) -> Iterator[Bar]:
    def rate(row: str, kind: str) -> float | None:
        return m.get("kinds", row, kind, "per_second")

    for row in (ASYNC, SUBMIT):
        for kind in FUNCTIONS:
            yield Bar("kinds", f"{row}: {kind} of a script / of a module",
                      _ratio(rate(row, kind + OF_SCRIPT), rate(row, kind)), 0.9, True, "kinds")
        method = "a bound method"
        yield Bar("kinds", f"{row}, {method} / {PPE} submit, the same",
                  _ratio(rate(row, method), rate(f"{PPE} submit", method)), 8.0, True, "kinds")


def _map(m: Medians) -> Iterator[Bar]:
    for workers in (1, 2):
        name = f"map/{workers}"

        def rate(row: str, case: str = "default", name: str = name) -> float | None:
            return m.get(name, row, case, "per_second")

        ours = rate(MAP)
        yield Bar("2", f"map, {workers} w: default / {PPE} default",
                  _ratio(ours, rate(f"{PPE} map")), 300, True, name)
        best = m.best(name, "per_second", lambda row, _: _is_peer(row))
        whose = " ".join(best[1]) if best else "peer"
        best_ratio = _ratio(ours, best and best[0])
        yield Bar("2", f"map, {workers} w: default / best peer with best chunksize ({whose})",
                  best_ratio, 0.7, True, name)
        yield Bar("aim", f"map, {workers} w: the same", best_ratio, 1.0, True, name)
        for chunksize in CHUNKSIZES:
            case = f"{chunksize:,}"
            rival = m.best(name, "per_second", lambda row, which, case=case: (
                which == case and row.startswith((OLD, PPE, MP))))
            yield Bar("2", f"map, {workers} w: chunksize {case}, map / best of "
                           f"{OLD}, {PPE}, {MP}",
                      _ratio(rate(MAP, case), rival and rival[0]), 1.0, True, name)
        for way in ("distex map, unordered", "distex map_async", "distex map_async, unordered"):
            yield Bar("2", f"map, {workers} w: {way} / {MAP}", _ratio(rate(way), ours), 0.8, True,
                      name)


def _is_peer(row: str) -> bool:
    return row not in LOOPS_ALONE and (row.startswith(OLD) or not row.startswith("distex"))


def _batching(m: Medians) -> Iterator[Bar]:
    for case in ("1 µs to 100 ms at random", "10 µs, then 10 ms", "10 ms, then 10 µs"):
        yield Bar("3", f"map, {case}: total / ideal greedy schedule",
                  m.get("mixed", MAP, case, "over"), 1.05, False, "mixed")
    for case in ("calls before took 30 ms", "calls before took 10 µs"):
        yield Bar("3", f"first result of a slow map, {case}: default / chunksize=1",
                  _ratio(m.get("first", MAP, case, "first"),
                         m.get("first", f"{MAP}, chunksize=1", case, "first")),
                  1.1, False, "first")


def _latency(m: Medians) -> Iterator[Bar]:
    name = "latency/pinned"

    def figure(row: str, key: str = "p50") -> float | None:
        return m.get(name, row, "", key)

    yield Bar("4", "latency pinned: run_async p50 / ping-pong p50",
              _ratio(figure(ASYNC), figure(PING)), 1.6, False, name)
    yield Bar("own", "latency pinned: run_async p50 / that of two bare event loops",
              _ratio(figure(ASYNC), figure(LOOP_PING)), 1.4, False, name)
    yield Bar("4", "latency pinned: run_async p99 / ping-pong p99",
              _ratio(figure(ASYNC, "p99"), figure(PING, "p99")), 3.0, False, name)
    yield Bar("4", f"latency pinned: {OLD} p50 / run_async p50",
              _ratio(figure(f"{OLD} run_async"), figure(ASYNC)), 2.5, True, name)
    yield Bar("4", f"latency pinned: {MP}.apply p50 / run p50",
              _ratio(figure(f"{MP} apply"), figure("distex run")), 1.5, True, name)
    yield Bar("4", "latency pinned: run p50 / ping-pong p50",
              _ratio(figure("distex run"), figure(PING)), 2.5, False, name)


def _spin(m: Medians) -> Iterator[Bar]:
    for name, text in (
        ("latency/unpinned", "unpinned"), ("latency/apart", "client and worker on a CPU each")
    ):
        yield Bar("5", f"latency, {text}: run_async p50 without spin / with spin",
                  _ratio(m.get(name, ASYNC, "", "p50"), m.get(name, f"{ASYNC}, spin", "", "p50")),
                  5.0, True, name)
    yield Bar("5", "CPU used when the spin time has passed idle",
              m.get("idle", "distex spin", "", "load"), 0.01, False, "idle", "share")


def _data(m: Medians) -> Iterator[Bar]:
    def bandwidth(row: str, case: str = "64 MB") -> float | None:
        return m.get("data", row, case, "bytes_per_second")

    ours = bandwidth(ASYNC)
    yield Bar("6", "64 MB array there and back", ours, 2e9, True, "data", "bandwidth")
    for rows, text in (
        (("Ray", "Dask", OLD), ""),
        (("Ray remote (copied", "Dask", OLD), ", results writable"),
    ):
        rival = m.best("data", "bytes_per_second", lambda row, case, rows=rows: (
            case == "64 MB" and row.startswith(rows)))
        whose = rival[1][0] if rival else "peer"
        yield Bar("6", f"64 MB array: distex / best of Ray, Dask, {OLD}{text} ({whose})",
                  _ratio(ours, rival and rival[0]), 3.0, True, "data")
    yield Bar("6", "64 MB array: writable on arrival", m.get("data", ASYNC, "64 MB", "writable"),
              1.0, True, "data", "plain")
    yield Bar("6", "1 GB array: peak extra memory of a process / payload",
              m.get("data", ASYNC, "1 GB", "peak_ratio"), 1.2, False, "data")
    rates = [bandwidth(ASYNC, size_label(size)) for size in SIZES]
    steps = [step for k in range(1, len(rates)) if (step := _ratio(rates[k], rates[k - 1]))]
    yield Bar("6", "no cliff: worst change of bandwidth from one size to the next",
              min(steps, default=None), 0.5, True, "data")


def _start(m: Medians) -> Iterator[Bar]:
    yield Bar("7", "import, beyond asyncio", m.get("start", "distex sync", "", "import"), 0.06,
              False, "start", "seconds")
    for peer in ("ProcessPoolExecutor spawn", "loky"):
        yield Bar("7", f"Pool(2) first result / that of {peer}",
                  _ratio(m.get("start", "distex sync", "", "first"),
                         m.get("start", peer, "", "first")), 1.0, False, "start")
    for key, text, limit, unit in (
        ("ready", "ready", 4.0, "seconds"),
        ("private", "private memory of each", 3e6, "bytes"),
        ("naps", "1,000 tasks of 1 s", 2.0, "seconds"),
    ):
        yield Bar("7", f"1,000 workers: {text}", m.get("workers", "distex", "1,000", key), limit,
                  False, "workers", unit)
    yield Bar("7", "3,000 workers: a task of 1 s on each",
              m.get("workers", "distex", "3,000", "naps"), 60.0, False, "workers", "seconds")


def _flat(m: Medians) -> Iterator[Bar]:
    def cpu(name: str, case: str = "") -> float | None:
        return m.get(name, ASYNC, case, "cpu")

    yield Bar("8", "CPU per task, all outstanding / 1,000 outstanding",
              _ratio(cpu("flat/tasks", "all"), cpu("flat/tasks", "1,000")), 1.3, False, "flat")
    yield Bar("8", "CPU per task, 1,000 workers / 2 workers",
              _ratio(cpu("flat/1000"), cpu("flat/2")), 1.5, False, "flat")
    yield Bar("8", "memory per outstanding task, with a tuple of one argument",
              m.get("flat/tasks", ASYNC, "all", "memory"), 400 + sys.getsizeof((1,)), False,
              "flat", "bytes")


def _constant(m: Medians) -> Iterator[Bar]:
    for row in (MAP, "distex map_async"):
        for key, text, limit in (
            ("pickled", "times pickled", 1), ("unpickled", "times unpickled by a worker", 1),
            ("kept", "kept after shutdown", 0),
        ):
            yield Bar("9", f"constant in {row}: {text}", m.get("constant", row, "", key), limit,
                      False, "constant", "plain")


def _ssh(m: Medians) -> Iterator[Bar]:
    def rate(row: str) -> float | None:
        return m.get("ssh/tasks", row, "", "per_second")

    ours = rate("distex ssh run_async")
    yield Bar("ssh", "single tasks over ssh, 2 w: run_async / the same without ssh",
              _ratio(ours, rate(f"{ASYNC}, no ssh")), 0.4, True, "ssh/tasks")
    yield Bar("ssh", f"single tasks over ssh, 2 w: run_async / {OLD} over OpenSSH",
              _ratio(ours, rate(f"{OLD} ssh run_async")), 5.0, True, "ssh/tasks")
    yield Bar("ssh", "single tasks over ssh: 64 workers / 2 workers",
              _ratio(rate("distex ssh run_async, 64 workers"), ours), 0.8, True, "ssh/tasks")
    for key, text in (("to_worker", "to the worker"), ("from_worker", "from the worker")):
        yield Bar("ssh", f"64 MB array over ssh, {text}",
                  m.get("ssh/data", "distex ssh run_async", "", key), 200e6, True, "ssh/data",
                  "bandwidth")


def _safety(m: Medians) -> Iterator[Bar]:
    for row in (ASYNC, SUBMIT):
        for case in ("retries", "timeout", "interrupt", "max_pending",
                     "all, and limits of workers"):
            yield Bar("safe", f"single tasks, {row}: with {case} / without",
                      m.get("safety/cost", row, case, "kept"), 0.95, True, "safety/cost")
    for case in ("SIGKILL of the worker", "cancel", "timeout", "cancel, grace period, SIGKILL"):
        yield Bar("safe", f"after {case}: the next task runs",
                  m.get("safety/mishap", "distex", case, "next"), 0.1, False, "safety/mishap",
                  "seconds")
    yield Bar("safe", "after SIGKILL of the worker: the caller knows",
              m.get("safety/mishap", "distex", "SIGKILL of the worker", "told"), 0.05, False,
              "safety/mishap", "seconds")
    yield Bar("safe", "tasks/s in the second after the last kill of a storm / before it",
              m.get("safety/storm", "distex submit", "", "after"), 0.9, True, "safety/storm")


def bars(results: dict[str, Any]) -> list[Bar]:
    """The bars of what was run."""
    medians = Medians(results)
    run = {sample["experiment"] for sample in results["samples"]}
    return [
        bar
        for part in (
            _single, _kinds, _map, _batching, _latency, _spin, _data, _start, _flat, _constant,
            _ssh, _safety)
        for bar in part(medians)
        if any(name.startswith(bar.only) for name in run)]
