"""Runs experiments: a child for each row, all alive together, measured in turns.

In each round the rows and cases of an experiment come in a new random order. A child that fails or
hangs is killed with all its processes; the reason takes the place of the figures.
"""

import json
import os
import platform
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import IO, Any

from bench import envs, usage
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
    """

    def __init__(self, experiment: Experiment, row: Row, log: IO[str]) -> None:
        command, variables = envs.command(row.peer)
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
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.close()
            self._process.wait(timeout)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            self.kill()
        self._process.stdout.close()

    def kill(self) -> None:
        """Kill it and all that descends from it."""
        for pid in reversed(usage.tree(self._process.pid)):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self._process.wait()


class Progress:
    """One line on the terminal that says where we are."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self._begin = time.monotonic()

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


def run(experiments: Iterable[Experiment], rounds: int, out: Path, seed: int) -> dict[str, Any]:
    """Measure it all.

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
            samples += _run_one(experiment, rounds, shuffle, progress, log)
    progress.clear()
    return {"machine": machine(), "rounds": rounds, "seed": seed, "samples": samples}


def _run_one(
    experiment: Experiment, rounds: int, shuffle: random.Random, progress: Progress, log: IO[str]
) -> list[Sample]:
    samples: list[Sample] = []
    children: dict[str, Child] = {}
    failed = set()  # rows and cases that are not tried again
    cells = [
        (row, case) for row in experiment.rows for case in experiment.cases
        if experiment.takes(row, case)]
    try:
        for number in range(rounds):
            shuffle.shuffle(cells)
            for row, case in cells:
                progress.step(f"{experiment.name} round {number + 1}: {row.label} {case}")
                if (row.label, case) in failed:
                    continue
                sample: Sample = {
                    "experiment": experiment.name, "row": row.label, "case": case, "round": number}
                samples.append(sample)
                try:
                    if row.label not in children:
                        children[row.label] = Child(experiment, row, log)
                    sample["figures"] = children[row.label].measure(
                        row.measure or experiment.measure, _args(experiment, row, case),
                        experiment.timeout)
                except (ChildError, OSError, ImportError) as exc:
                    sample["error"] = str(exc)
                    failed.add((row.label, case))
                    if row.label in children:
                        child = children.pop(row.label)
                        child.kill()
                        child.end()
    finally:
        for child in children.values():
            child.end()
    return samples


def _args(experiment: Experiment, row: Row, case: str) -> dict[str, Any]:
    args = {**experiment.cases[case], **row.args}
    if row.measure == "mapped":  # in the place of single tasks
        args.pop("in_flight", None)
    return args


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
