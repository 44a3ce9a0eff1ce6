"""Runs experiments: a child for each row, all alive together, measured in turns.

In each round the rows and cases of an experiment come in a new random order; those of a peer that
uses CPU when idle come together, and then it is closed. A child that fails or hangs is killed with
all its processes; the reason takes the place of the figures.
"""

import contextlib
import json
import os
import platform
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from typing import IO, Any

from bench import envs, sshd, usage
from bench.peers import PEERS
from bench.plan import Experiment, Row

Sample = dict[str, Any]


class ChildError(Exception):
    """Raised when a child gives no figures; says why."""


class Child:
    """The process in which a row is measured.

    Args:
        experiment: which gives the workers and the pinning.
        row: which gives the peer.
        log: takes the stderr of the child and of its workers.
        more: environment variables for it.
    """

    def __init__(
        self, experiment: Experiment, row: Row, log: IO[str], more: dict[str, str]
    ) -> None:
        command, variables = envs.command(row.peer, more)
        cpus = os.sched_getaffinity(0)
        if experiment.pinned:
            os.sched_setaffinity(0, {min(cpus)})  # the child inherits it
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                cwd=envs.child_path(), env=variables, start_new_session=True)
        finally:
            os.sched_setaffinity(0, cpus)
        self._send({"peer": row.peer, "workers": experiment.workers, "options": row.options})

    def _send(self, message: Any) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise ChildError("the child has ended") from None

    def measure(self, measure: str, args: dict[str, Any], timeout: float) -> dict[str, Any]:
        """The figures of one measurement."""
        self._send({"measure": measure, "args": args})
        stdout = self._process.stdout
        assert stdout is not None
        if not select.select([stdout], [], [], timeout)[0]:
            raise ChildError(f"no answer in {timeout:g} s")
        line = stdout.readline()
        if not line:
            raise ChildError(f"the child ended, exit code {self._process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise ChildError(answer["error"])
        figures: dict[str, Any] = answer["figures"]
        return figures

    def end(self, timeout: float = 10.0) -> None:
        """Let it end by itself, or kill it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.close()
            self._process.wait(timeout)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            self.kill()
        self._process.stdout.close()

    def kill(self) -> None:
        """Kill it and all that descends from it."""
        found: set[int] = set()
        # stopped first: else a pool replaces the workers that are killed before it
        while fresh := set(usage.tree(self._process.pid)) - found:
            _signal(fresh, signal.SIGSTOP)
            found |= fresh
        _signal(found, signal.SIGKILL)
        self._process.wait()


def _signal(pids: Iterable[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


class Progress:
    """One line on the terminal that says where we are."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self._begin = time.monotonic()

    def begin(self, title: str) -> None:
        """Without a terminal a line for each experiment has to do."""
        if not sys.stderr.isatty():
            print(title, file=sys.stderr, flush=True)

    def step(self, text: str) -> None:
        """One measurement more."""
        self._done += 1
        minutes, seconds = divmod(int(time.monotonic() - self._begin), 60)
        self._write(f"[{self._done}/{self._total}, {minutes}:{seconds:02}] {text}")

    def clear(self) -> None:
        """Leave no trace."""
        self._write("")

    def _write(self, text: str) -> None:
        if sys.stderr.isatty():
            print(f"\r\033[K{text[:110]}", end="", file=sys.stderr, flush=True)


def run(
    experiments: Iterable[Experiment], rounds: int, out: Path, seed: int,
    save: Callable[[dict[str, Any]], object] = lambda results: None,
) -> dict[str, Any]:
    """Measure it all.

    Args:
        experiments: what.
        rounds: how often.
        out: folder for the log.
        seed: of the order.
        save: called with the results after each experiment: what comes may take long, or fail.

    Returns:
        what goes into results.json: a description of the machine, and a sample for each experiment,
        row, case and round, with figures or an error.
    """
    experiments = list(experiments)
    samples: list[Sample] = []
    shuffle = random.Random(seed)
    progress = Progress(rounds * sum(
        experiment.takes(row, case)
        for experiment in experiments for row in experiment.rows for case in experiment.cases))
    with open(out / "bench.log", "w") as log:
        for experiment in experiments:
            progress.begin(experiment.title)
            samples += _run_one(experiment, rounds, shuffle, progress, log)
            results = {"machine": machine(), "rounds": rounds, "seed": seed, "samples": samples}
            save(results)
    progress.clear()
    return results


def _run_one(
    experiment: Experiment, rounds: int, shuffle: random.Random, progress: Progress, log: IO[str]
) -> list[Sample]:
    samples: list[Sample] = []
    cells = [
        (row, case) for row in experiment.rows for case in experiment.cases
        if experiment.takes(row, case)]
    with contextlib.closing(Crew(experiment, log)) as crew:
        for number in range(rounds):
            cells = _shuffled(cells, shuffle)
            for k, (row, case) in enumerate(cells):
                progress.step(f"{experiment.name} round {number + 1}: {row.label} {case}")
                answer = crew.measure(row, case)
                if answer is not None:
                    samples.append({
                        "experiment": experiment.name, "row": row.label, "case": case,
                        "round": number, **answer})
                if _is_noisy(row) and (k + 1 == len(cells) or cells[k + 1][0] is not row):
                    crew.rest(row)
    return samples


class Crew:
    """The children of one experiment, by row; started when they are needed."""

    def __init__(self, experiment: Experiment, log: IO[str]) -> None:
        self._experiment = experiment
        self._log = log
        self._children: dict[str, Child] = {}
        self._failed: set[tuple[str, str]] = set()  # rows and cases that are not tried again
        self._sshd = contextlib.ExitStack()
        self._variables: dict[str, str] | None = None  # for the children; None: not known yet

    def measure(self, row: Row, case: str) -> dict[str, Any] | None:
        """Figures, or the error if there are none; None if that was said before."""
        if (row.label, case) in self._failed:
            return None
        experiment = self._experiment
        args = {**experiment.cases[case], **row.args}
        if row.measure == "mapped":  # in the place of single tasks
            args.pop("in_flight", None)
        try:
            if row.label not in self._children:
                self._children[row.label] = Child(
                    experiment, row, self._log, self._prepared())
            figures = self._children[row.label].measure(
                row.measure or experiment.measure, args, experiment.timeout)
            if experiment.fresh:
                self._children.pop(row.label).end()
            return {"figures": figures}
        except (ChildError, OSError, ImportError) as exc:
            self._failed.add((row.label, case))
            self._kill(row)
            return {"error": str(exc)}

    def _prepared(self) -> dict[str, str]:
        """Environment variables for the children; has the sshd run if there is to be one."""
        if self._variables is None:
            self._variables = (
                self._sshd.enter_context(sshd.running()) if self._experiment.sshd else {})
        return self._variables

    def rest(self, row: Row) -> None:
        """Have a child close its pool."""
        if row.label in self._children:
            try:
                self._children[row.label].measure("rest", {}, self._experiment.timeout)
            except ChildError:
                self._kill(row)

    def _kill(self, row: Row) -> None:
        child = self._children.pop(row.label, None)
        if child is not None:
            child.kill()
            child.end()

    def close(self) -> None:
        """End all children."""
        for child in self._children.values():
            child.end()
        self._sshd.close()


def _is_noisy(row: Row) -> bool:
    return row.peer in PEERS and PEERS[row.peer].noisy


def _shuffled(cells: list[tuple[Row, str]], shuffle: random.Random) -> list[tuple[Row, str]]:
    """The cells in random order, those of a noisy peer together."""
    place = {row.label: shuffle.random() for row, _ in cells}
    keyed = [
        (place[cell[0].label] if _is_noisy(cell[0]) else shuffle.random(), shuffle.random(), cell)
        for cell in cells]
    return [cell for *_, cell in sorted(keyed, key=lambda each: each[:2])]


def machine() -> dict[str, Any]:
    """Where the figures were taken, and of what."""
    versions = {"distex": _version("distex"), "python": platform.python_version()}
    missing: dict[str, str] = {}
    for name in envs.PACKAGES:
        if (envs.CACHE / name / "installed.json").exists():
            environment = envs.prepare(name)
            versions.update({
                package.lower(): version for package, version in environment.versions.items()
                if package != "distex"})
            missing.update(environment.missing)
    return {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "cpu": _cpu_name(),
        "cpus": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "system": platform.platform(),
        "versions": versions,
        "missing": missing,
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _cpu_name() -> str:
    with open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()
