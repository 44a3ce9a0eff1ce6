"""Medians of the samples, and tables of them for the terminal and in Markdown."""

import statistics
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bench.plan import Experiment, Figure, Row, experiments

Cell = tuple[str, str]  # row and case


class Medians:
    """The medians of all rounds, by experiment, row, case and figure."""

    def __init__(self, results: dict[str, Any]) -> None:
        values: dict[Any, list[float]] = defaultdict(list)
        self.errors: dict[tuple[str, str, str], str] = {}
        for sample in results["samples"]:
            cell = sample["experiment"], sample["row"], sample["case"]
            if "error" in sample:
                self.errors[cell] = sample["error"]
            for key, value in sample.get("figures", {}).items():
                if key != "histogram":
                    values[(*cell, key)].append(float(value))
        self._values = {key: statistics.median(found) for key, found in values.items()}
        self.rows = {key[:2] for key in self._values} | {key[:2] for key in self.errors}

    def get(self, experiment: str, row: str, case: str, figure: str) -> float | None:
        """One of them, or None if it was not measured."""
        return self._values.get((experiment, row, case, figure))

    def best(
        self, experiment: str, figure: str, accept: Callable[[str, str], bool]
    ) -> tuple[float, Cell] | None:
        """The highest among the rows and cases that are accepted, with row and case."""
        found = [
            (value, (row, case)) for (name, row, case, key), value in self._values.items()
            if name == experiment and key == figure and accept(row, case)]
        return max(found, default=None)


# --- units


def _scaled(value: float, units: tuple[tuple[float, str], ...]) -> str:
    factor, unit = next((each for each in units if abs(value) >= each[0]), units[-1])
    number = value / factor
    digits = 0 if abs(number) >= 100 else 1 if abs(number) >= 10 else 2
    return f"{number:.{digits}f} {unit}".strip()


SCALES = {
    "count": ((1e6, "M"), (1e3, "k"), (1.0, "")),
    "seconds": ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")),
    "bandwidth": ((1e9, "GB/s"), (1e6, "MB/s"), (1e3, "kB/s")),
    "bytes": ((1e6, "MB"), (1e3, "kB"), (1.0, "B")),
}


def written(value: float, unit: str) -> str:
    """A figure for people."""
    if unit in SCALES:
        return _scaled(value, SCALES[unit])
    if unit == "share":
        return f"{100 * value:.2f} %"
    if unit == "plain":
        return f"{value:g}"
    return f"{value:.2f}"


# --- tables


@dataclass
class Table:
    """Text in rows and columns."""

    title: str
    header: list[str]
    rows: list[list[str]]
    notes: list[str]

    def terminal(self) -> str:
        """With columns of equal width."""
        lines = [self.header, *self.rows]
        widths = [max(len(line[k]) for line in lines) for k in range(len(self.header))]
        text = [
            "  ".join(
                cell.rjust(width) if k else cell.ljust(width)
                for k, (cell, width) in enumerate(zip(line, widths, strict=True))).rstrip()
            for line in lines]
        text.insert(1, "  ".join("─" * width for width in widths))
        return "\n".join([self.title, "", *text, *("  " + note for note in self.notes), ""])

    def markdown(self) -> str:
        """A table of GitHub's Markdown."""
        lines = [self.header, ["---", *["---:"] * (len(self.header) - 1)], *self.rows]
        text = ["| " + " | ".join(line) + " |" for line in lines]
        return "\n".join([f"### {self.title}", "", *text, "", *(f"* {n}" for n in self.notes), ""])


def tables(results: dict[str, Any]) -> list[Table]:
    """All that was measured; a table for each figure where an experiment has several cases."""
    medians = Medians(results)
    found = []
    for experiment in experiments(results["quick"]):
        rows = [row for row in experiment.rows if (experiment.name, row.label) in medians.rows]
        if not rows:
            continue
        notes = _notes(experiment, medians)
        if len(experiment.cases) == 1:
            found.append(_by_figure(experiment, rows, medians, notes))
        else:
            for figure in experiment.figures:
                table = _by_case(experiment, figure, rows, medians, notes)
                if table.rows:
                    found.append(table)
                    notes = []
    return found


def _notes(experiment: Experiment, medians: Medians) -> list[str]:
    reasons: dict[tuple[str, str], list[str]] = defaultdict(list)
    for (name, row, case), reason in medians.errors.items():
        if name == experiment.name:
            reasons[row, reason].append(case)
    return [
        f"{row}{' (' + ', '.join(cases) + ')' if cases != [''] else ''}: {reason}"
        for (row, reason), cases in reasons.items()]


def _by_figure(
    experiment: Experiment, rows: list[Row], medians: Medians, notes: list[str]
) -> Table:
    (case,) = experiment.cases
    body = []
    for row in rows:
        cells = [row.label]
        for figure in experiment.figures:
            def value(of: Row, key: str = figure.key) -> float | None:
                return medians.get(experiment.name, of.label, case, key)
            cells.append(_cell(value(row), value(rows[0]), figure, row is rows[0]))
        body.append(cells)
    header = ["", *(figure.title for figure in experiment.figures)]
    return Table(experiment.title, header, body, notes)


def _by_case(
    experiment: Experiment, figure: Figure, rows: list[Row], medians: Medians, notes: list[str]
) -> Table:
    def value(row: Row, case: str) -> float | None:
        return medians.get(experiment.name, row.label, case, figure.key)

    cases = [c for c in experiment.cases if any(value(row, c) is not None for row in rows)]
    rows = [row for row in rows if any(value(row, c) is not None for c in cases)]
    body = [
        [row.label, *(_cell(value(row, c), value(rows[0], c), figure, row is rows[0])
                      for c in cases)]
        for row in rows]
    header = ["", *cases]
    if experiment.best and figure.better == 1:
        header.append(f"best, against {cases[0]} of the first row")
        for line, row in zip(body, rows, strict=True):
            found = medians.best(
                experiment.name, figure.key, lambda label, _, own=row.label: label == own)
            line.append(_cell(found and found[0], value(rows[0], cases[0]), figure, False))
    return Table(f"{experiment.title}: {figure.title}", header, body, notes)


def _cell(value: float | None, reference: float | None, figure: Figure, first: bool) -> str:
    """A figure and, in brackets, how many times better that of the first row is."""
    if value is None:
        return "-"
    text = written(value, figure.unit)
    if first or not reference or not value or not figure.better or figure.unit == "plain":
        return text
    ratio = reference / value if figure.better > 0 else value / reference
    return f"{text} ({ratio:.0f}x)" if ratio >= 10 else f"{text} ({ratio:.2g}x)"


def heading(results: dict[str, Any]) -> list[str]:
    """Where the figures come from."""
    machine = results["machine"]
    versions = machine["versions"]
    lines = [
        f"{machine['date']}, {machine['cpus']} x {machine['cpu']}, Linux {machine['kernel']}, "
        f"Python {versions['python']}, distex {versions['distex']}. "
        f"Medians of {results['rounds']} round{'s' * (results['rounds'] > 1)}. "
        "In brackets: how many times better the first row is."]
    if machine["missing"]:
        lines.append("Could not be installed: " + "; ".join(
            f"{package} ({why})" for package, why in machine["missing"].items()) + ".")
    return lines


def terminal(results: dict[str, Any]) -> str:
    """The report as plain text."""
    return "\n".join([*heading(results), "", *(table.terminal() for table in tables(results))])


def markdown(results: dict[str, Any]) -> str:
    """The report in Markdown."""
    machine = results["machine"]
    compared = ", ".join(
        f"{name} {machine['versions'][name]}"
        for name in ("loky", "joblib", "mpire", "pebble", "ray", "distributed", "numpy", "uvloop")
        if name in machine["versions"])
    return "\n\n".join([
        "# Benchmark", *heading(results), *([f"With {compared}."] if compared else []),
        *(table.markdown() for table in tables(results))])
