"""The benchmark suite works: every measurement gives figures. How fast it is matters not here."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import bars, envs, measurements, peers, plan, report, runner, usage

pytest.importorskip("numpy")

ROOT = Path(__file__).resolve().parent.parent.parent
HERE = {"distex", "limits", "multiprocessing.Pool", "ProcessPoolExecutor"}  # need no environment
SMOKE = {"single/2", "first"}
SMALLEST = {
    "seconds": 0.01, "calls": 20, "scale": 0.02, "count": 3, "in_flight": 100, "size": 1 << 16,
    "settle": 0.0, "naps": False, "warm_up": 100, "times": 1, "storm": 0.2,
    "pairs": 2,
}
FIGURES = {  # each measurement gives one of them
    "per_second", "p50", "load", "over", "first", "bytes_per_second", "ready", "cpu", "pickled",
    "to_worker", "next", "before", "kept"}


def small(experiment: plan.Experiment, wanted: set[str]) -> plan.Experiment:
    """The same with the least work, one case, and the rows of these peers."""
    case, args = next(iter(experiment.cases.items()))
    return dataclasses.replace(
        experiment,
        cases={case: {key: SMALLEST.get(key, value) for key, value in args.items()}},
        rows=tuple(row for row in experiment.rows if row.base in wanted
                   and (not row.options or row is experiment.rows[0])),
        workers=min(experiment.workers, 2),
    )


def names(quick: bool) -> list[str]:
    return [experiment.name for experiment in plan.experiments(quick)]


def test_children_find_the_bench_of_a_checkout_that_was_moved(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(envs, "CACHE", tmp_path)
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "bench").symlink_to(tmp_path / "where it was" / "bench")
    assert os.listdir(envs.child_path()) == ["bench"]
    assert (envs.child_path() / "bench").samefile(ROOT / "bench")


@pytest.mark.parametrize("quick", [True, False])
def test_the_plan_is_sound(quick: bool) -> None:
    assert len(set(names(quick))) == len(names(quick))
    for experiment in plan.experiments(quick):
        labels = [row.label for row in experiment.rows]
        assert len(set(labels)) == len(labels), "rows with one label would share a child"
        assert hasattr(measurements, experiment.measure)
        assert all(row.peer in peers.PEERS or row.peer == "limits" for row in experiment.rows)


# of those that differ in the number of workers alone, one; of these most with PROFILE=ci only
@pytest.mark.parametrize("name", [
    pytest.param(name, marks=[] if name in SMOKE else pytest.mark.large) for name in {
        name.rpartition("/")[0] if name[-1].isdigit() else name: name
        for name in names(quick=False)}.values()])
def test_each_experiment_gives_figures(name: str, tmp_path: Path) -> None:
    (experiment,) = [each for each in plan.experiments(False) if each.name == name]
    wanted = {"distex", "limits"} if name in ("mixed", "first", "flat/1000") else HERE
    experiment = small(experiment, wanted)
    results = runner.run([experiment], 1, tmp_path, seed=1)
    log = (tmp_path / "bench.log").read_text()
    assert len(results["samples"]) == len(experiment.rows)
    for sample in results["samples"]:
        assert "error" not in sample, (sample, log)
        assert FIGURES & set(sample["figures"]), sample
    assert usage.tree(os.getpid()) == [os.getpid()], "a process was left behind"


def test_a_child_that_hangs_is_killed_and_said_to_hang(tmp_path: Path) -> None:
    hanging = plan.Experiment(
        "idle", "", "idle", (plan.Row("multiprocessing.Pool"),), (),
        {"": {"settle": 3600, "seconds": 0}}, timeout=1.0)
    results = runner.run([hanging], 2, tmp_path, seed=1)
    (sample,) = results["samples"]  # it is not tried a second time
    assert sample["error"] == "no answer in 1 s"
    assert usage.tree(os.getpid()) == [os.getpid()]


def test_what_fails_is_said_with_the_reason(tmp_path: Path) -> None:
    unknown = plan.Experiment(
        "idle", "", "idle", (plan.Row("distex", options={"no_such_option": 1}),), (),
        {"": {"settle": 0, "seconds": 0}})
    (sample,) = runner.run([unknown], 1, tmp_path, seed=1)["samples"]
    assert "no option no_such_option" in sample["error"]


def test_the_command_writes_a_report(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--quick", "--only", "constant", "--no-plots", "--check",
         "--peers", "", "--out", tmp_path],
        cwd=ROOT, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    assert "times pickled" in done.stdout
    assert "Bars" in done.stdout
    assert "| distex map |" in (tmp_path / "report.md").read_text()
    assert json.loads((tmp_path / "results.json").read_text())["samples"]


def test_a_part_can_be_measured_anew(tmp_path: Path) -> None:
    def measure(*arguments: str) -> dict[str, Any]:
        subprocess.run(
            [sys.executable, "-m", "bench", "--quick", "--no-plots", "--peers", "", "--rounds", "1",
             "--out", tmp_path, *arguments],
            cwd=ROOT, capture_output=True, check=True)
        found: dict[str, Any] = json.loads((tmp_path / "results.json").read_text())
        return found

    before = measure("--only", "constant", "--only", "first")
    after = measure("--only", "first", "--update")
    parts = [[sample for sample in each["samples"] if sample["experiment"] == "constant"]
             for each in (before, after)]
    assert parts[0] == parts[1] != []
    assert len(before["samples"]) == len(after["samples"])


def results(*samples: tuple[str, str, str, dict[str, Any]]) -> dict[str, Any]:
    return {
        "quick": False, "rounds": 1,
        "machine": {"date": "", "cpu": "", "cpus": 2, "kernel": "", "missing": {},
                    "versions": {"python": "", "distex": ""}},
        "samples": [
            {"experiment": experiment, "row": row, "case": case, "round": 0, "figures": figures}
            for experiment, row, case, figures in samples],
    }


def test_bars_compare_medians() -> None:
    found = bars.bars(results(
        ("single/1", "distex run_async", "", {"per_second": 600_000.0}),
        ("single/1", "distex run_async", "", {"per_second": 1_000_000.0}),
        ("single/1", "distex run_async", "", {"per_second": 2_000_000.0}),
        ("single/1", "ProcessPoolExecutor submit", "", {"per_second": 25_000.0}),
    ))
    by_text = {bar.text: bar for bar in found}
    executor = by_text["single tasks, 1 w: run_async / ProcessPoolExecutor submit"]
    assert (executor.figure, executor.passed) == (40.0, False)
    assert by_text["single tasks a second, 1 w"].passed is True
    assert by_text["single tasks, 1 w: submit / run_async"].passed is None


def test_every_bar_looks_up_rows_that_the_plan_has(monkeypatch: pytest.MonkeyPatch) -> None:
    planned = {
        (experiment.name, row.label, case)
        for experiment in plan.experiments(False)
        for row in experiment.rows for case in experiment.cases if experiment.takes(row, case)}
    asked = set()

    def get(self: report.Medians, experiment: str, row: str, case: str, figure: str) -> None:
        asked.add((experiment, row, case))

    monkeypatch.setattr(report.Medians, "get", get)
    bars.bars(results(*((name, "distex", "", {}) for name in names(quick=False))))
    assert asked
    assert asked <= planned


def test_a_table_says_how_many_times_better_the_first_row_is() -> None:
    (table,) = report.tables(results(
        ("single/1", "distex run_async", "", {"per_second": 1e6, "cpu": 1e-6}),
        ("single/1", "Ray remote", "", {"per_second": 1e3, "cpu": 1e-3}),
    ))
    assert table.rows[0] == ["distex run_async", "1.00 M", "1.00 µs"]
    assert table.rows[1] == ["Ray remote", "1.00 k (1000x)", "1.00 ms (1000x)"]


def test_the_greedy_schedule() -> None:
    assert measurements.greedy([3.0, 1.0, 1.0, 1.0], 2) == 3.0
    assert measurements.greedy([1.0, 1.0, 1.0, 3.0], 2) == 4.0


def test_percentiles_and_histogram() -> None:
    figures = measurements.describe([k * 1e-6 for k in range(1, 101)])
    assert figures["p50"] == pytest.approx(51e-6)
    assert figures["p99"] == pytest.approx(100e-6)
    assert sum(figures["histogram"].values()) == 100
