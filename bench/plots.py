"""Pictures of the results, as PNG and SVG: ``python -m bench.plots results.json DIR``.

Run by the command in an environment of its own, as it needs matplotlib.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from bench.measurements import BIN
from bench.plan import LOOPS_ALONE, SIZES, size_label
from bench.report import Medians, written

INK, FAINT, LIMIT = "#1f2430", "#d9dce3", "#8a909c"
OURS, OLD = "#d1335b", "#e8964a"
OTHERS = ("#3b6fb6", "#2f9e8f", "#7b5ea7", "#8aa436", "#4fa3d1", "#b0677d", "#6b7a8f")

mpl.rcParams.update({
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlecolor": INK,
    "axes.labelsize": 9,
    "axes.axisbelow": True,
    "font.family": "sans-serif",
    "font.size": 9,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "savefig.dpi": 160,
    "svg.fonttype": "path",
    "svg.hashsalt": "distex",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
})


def is_ours(row: str) -> bool:
    """Whether the row is of the distex that is measured."""
    return row.startswith("distex") and not row.startswith("distex 0.7.2")


def colours(rows: Iterable[str]) -> dict[str, str]:
    """A colour for each row: ours stands out."""
    others = iter(OTHERS * 2)
    return {
        row: OURS if is_ours(row) else OLD if row.startswith("distex 0.7.2") else next(others)
        for row in rows}


def _unit(axis: Any, unit: str, ticks: list[float] | None = None) -> None:
    """Write ticks as the tables do, without needless digits."""
    def text(value: float, _: int) -> str:
        number, _, scale = written(value, unit).partition(" ")
        return f"{float(number):g} {scale}".strip()

    if ticks:
        axis.set_ticks(ticks)
    axis.set_major_formatter(FuncFormatter(text))
    axis.set_minor_formatter(NullFormatter())
    axis.set_minor_locator(NullLocator())


def _save(figure: Figure, out: Path, name: str, caption: str) -> None:
    figure.supxlabel(caption, x=0.01, ha="left", fontsize=7, color=LIMIT)
    for kind in ("png", "svg"):
        figure.savefig(
            out / f"{name}.{kind}", bbox_inches="tight", pad_inches=0.15,
            metadata={"Date": None} if kind == "svg" else None)
    plt.close(figure)


# --- bars


def _bars(axes: Axes, values: dict[str, float], title: str, unit: str) -> None:
    """Horizontal bars on a logarithmic axis, the longest on top, each with its figure."""
    rows = sorted(values, key=lambda row: values[row])
    lowest = 10 ** int(f"{min(values.values()):e}".partition("e")[2]) / 2
    axes.barh(
        rows, [values[row] - lowest for row in rows], left=lowest, height=0.7,
        color=[OURS if is_ours(row) else OLD if "0.7.2" in row else "#aeb8c7" for row in rows])
    axes.set_xscale("log")
    axes.set_xlim(lowest, max(values.values()) * 3)
    for position, row in enumerate(rows):
        axes.text(
            values[row] * 1.08, position, written(values[row], unit), va="center",
            fontweight="bold" if is_ours(row) else "normal")
    for label in axes.get_yticklabels():
        if is_ours(label.get_text()):
            label.set_fontweight("bold")
    axes.set_title(title)
    axes.grid(visible=True, axis="x")
    axes.spines["left"].set_visible(False)
    axes.spines["bottom"].set_visible(False)
    _unit(axes.xaxis, unit)


def throughput(medians: Medians, out: Path, caption: str) -> None:
    """Single tasks, and maps with default arguments and with the best chunksize."""
    workers = max((name for name, _ in medians.rows if name.startswith("map/")), default=None)
    if workers is None or not (single := _rates(medians, workers.replace("map", "single"), "")):
        return
    default = _rates(medians, workers, "default")
    best: dict[str, float] = {}
    for row in _rows(medians, workers):
        found = medians.best(workers, "per_second", lambda r, _, own=row: r == own)
        if found is not None:
            chunk = found[1][1]
            best[row if chunk == "default" else f"{row}, chunksize={chunk}"] = found[0]
    panels = [
        (single, "Single tasks per second, a future each, 1,000 in flight"),
        (default, "map of a tiny function, default arguments, items per second"),
        (best, "map with the fastest chunksize of each, items per second"),
    ]
    figure, axes = plt.subplots(
        3, 1, figsize=(8, sum(1 + 0.24 * len(values) for values, _ in panels)),
        height_ratios=[2 + len(values) for values, _ in panels], layout="constrained")
    figure.get_layout_engine().set(hspace=0.06)
    for axis, (values, title) in zip(axes, panels, strict=True):
        _bars(axis, values, title, "count")
    _save(figure, out, "throughput", caption)


def _rows(medians: Medians, experiment: str) -> set[str]:
    return {row for name, row in medians.rows if name == experiment} - LOOPS_ALONE


def _rates(medians: Medians, experiment: str, case: str) -> dict[str, float]:
    found = {row: medians.get(experiment, row, case, "per_second")
             for row in _rows(medians, experiment)}
    return {row: rate for row, rate in found.items() if rate}


# --- distributions


def latency(results: dict[str, Any], medians: Medians, out: Path, caption: str) -> None:
    """The distribution of the time that one task takes, a ridge for each row."""
    names = [
        name for name in ("latency/pinned", "latency/unpinned")
        if any(found == name for found, _ in medians.rows)]
    if not names:
        return
    ridges = {name: _histograms(results, name) for name in names}
    figure, axes = plt.subplots(
        len(names), 1, sharex=True, squeeze=False, layout="constrained",
        figsize=(8, sum(0.9 + 0.42 * len(ridges[name]) for name in names)),
        height_ratios=[1.5 + len(ridges[name]) for name in names])
    for axis, name in zip(axes[:, 0], names, strict=True):
        _ridges(axis, name, ridges[name], medians)
    low = min(min(bins) for rows in ridges.values() for bins in rows.values())
    axes[0, 0].set_xlim(BIN ** (low - 6) * 1e-6, _high(ridges) * 1.6)
    _unit(axes[-1, 0].xaxis, "seconds")
    _save(figure, out, "latency", caption)


def _high(ridges: dict[str, dict[str, dict[int, float]]]) -> float:
    """The duration, in seconds, below which nearly all calls of the slowest row are."""
    highest = 0.0
    for rows in ridges.values():
        for bins in rows.values():
            total, seen = sum(bins.values()), 0.0
            for k in sorted(bins):
                seen += bins[k]
                if seen >= 0.99 * total:
                    highest = max(highest, BIN ** (k + 1) * 1e-6)
                    break
    return highest


def _histograms(results: dict[str, Any], name: str) -> dict[str, dict[int, float]]:
    """The histograms of all rounds together, by row."""
    rows: dict[str, dict[int, float]] = defaultdict(lambda: defaultdict(float))
    for sample in results["samples"]:
        if sample["experiment"] == name and "figures" in sample:
            for k, count in sample["figures"]["histogram"].items():
                rows[sample["row"]][int(k)] += count
    return rows


def _ridges(
    axes: Axes, name: str, rows: dict[str, dict[int, float]], medians: Medians
) -> None:
    def p50(row: str) -> float:
        return medians.get(name, row, "", "p50") or 0.0

    order = sorted(rows, key=p50, reverse=True)
    for base, row in enumerate(order):
        colour = (OURS if is_ours(row) else OLD if "0.7.2" in row
                  else LIMIT if "ping-pong" in row else "#6d8db8")
        bins = rows[row]
        ks = range(min(bins) - 1, max(bins) + 2)
        highest = max(bins.values())
        edges = [BIN ** k * 1e-6 for k in ks]
        heights = [base + 0.85 * bins.get(k, 0) / highest for k in ks]
        axes.fill_between(edges, heights, base, step="post", color=colour, alpha=0.75, linewidth=0)
        axes.axhline(base, color=FAINT, linewidth=0.6, zorder=0)
        p99 = medians.get(name, row, "", "p99") or 0.0
        axes.plot([p50(row)] * 2, [base, base + 0.85], color=INK, linewidth=0.9)
        axes.text(
            1.01, base + 0.3, f"{written(p50(row), 'seconds')}   p99 {written(p99, 'seconds')}",
            transform=axes.get_yaxis_transform(), va="center",
            fontweight="bold" if is_ours(row) else "normal")
    axes.set_xscale("log")
    axes.set_yticks([k + 0.3 for k in range(len(order))], order)
    for label in axes.get_yticklabels():
        if is_ours(label.get_text()):
            label.set_fontweight("bold")
    axes.set_ylim(-0.1, len(order) + 0.1)
    axes.set_title("Latency of one task, " + (
        "everything on one CPU" if name.endswith("/pinned") else "on any CPU")
        + ": distribution and median")
    axes.grid(visible=True, axis="x")
    axes.spines["left"].set_visible(False)
    axes.spines["bottom"].set_visible(False)


# --- lines


def _lines(
    axes: Axes, series: dict[str, list[tuple[float, float]]], limits: set[str]
) -> None:
    """Lines on logarithmic axes, each labelled at its end."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    palette = colours(row for row in series if row not in limits)
    for row, points in series.items():
        limit = row in limits
        axes.plot(
            *zip(*points, strict=True), color=LIMIT if limit else palette[row],
            linestyle=(0, (4, 2)) if limit else "-", linewidth=2.6 if is_ours(row) else 1.4,
            marker="" if limit else "o", markersize=4 if is_ours(row) else 2.5,
            zorder=3 if is_ours(row) else 2)
    axes.grid(visible=True)
    axes.figure.draw_without_rendering()  # settles the scales
    right = max(x for points in series.values() for x, _ in points)
    # the labels stand in a column, kept apart; a thin line leads to one that ends early
    placed = _spread(axes, {row: points[-1][1] for row, points in series.items()})
    to_points = 72 / axes.figure.dpi
    edge = axes.transData.transform((right, 1))[0]
    for row, points in series.items():
        away = (edge - axes.transData.transform(points[-1])[0]) * to_points
        colour = LIMIT if row in limits else palette[row]
        axes.annotate(
            row, points[-1], xytext=(away + 9, placed[row]), textcoords="offset points",
            va="center", color=colour, annotation_clip=False,
            fontweight="bold" if is_ours(row) else "normal",
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6, "alpha": 0.6,
                        "shrinkA": 1, "shrinkB": 3, "relpos": (0, 0.5)} if away > 1 else None)


def _spread(axes: Axes, ends: dict[str, float], apart: float = 11.0) -> dict[str, float]:
    """By how many points to move labels up or down, so that none hides another."""
    to_points = 72 / axes.figure.dpi
    wanted = {
        row: axes.transData.transform((1, y))[1] * to_points for row, y in ends.items()}
    order = sorted(wanted, key=lambda row: wanted[row])
    places = [wanted[row] for row in order]
    for _ in range(200):
        for k in range(1, len(places)):
            if (overlap := apart - (places[k] - places[k - 1])) > 0:
                places[k] += overlap / 2
                places[k - 1] -= overlap / 2
    return {row: place - wanted[row] for row, place in zip(order, places, strict=True)}


def _series(
    medians: Medians, experiment: str, figure: str, cases: dict[str, float],
    name: Callable[[str], str] = str,
) -> dict[str, list[tuple[float, float]]]:
    series = {}
    for found, row in sorted(medians.rows, key=lambda key: (not is_ours(key[1]), key[1])):
        if found == experiment:
            points = [
                (x, y) for case, x in cases.items()
                if (y := medians.get(experiment, row, case, figure)) is not None]
            if points:
                series[name(row)] = points
    return series


def bandwidth(medians: Medians, out: Path, caption: str) -> None:
    """Large arrays there and back, by size."""
    sizes = {size_label(size): float(size) for size in SIZES}
    series = _series(
        medians, "data", "bytes_per_second", sizes,
        lambda row: row if "(" in row else row.rpartition(" ")[0])
    if not series:
        return
    figure, axes = plt.subplots(figsize=(7.2, 4.8))
    limits = {row for row in series if row.endswith("(C)")}
    _lines(axes, series, limits)
    axes.set_title("A float64 array to a worker and back: bytes per second, both ways counted")
    xs = sorted({x for points in series.values() for x, _ in points})
    axes.set_xticks(xs, [size_label(int(x)) for x in xs])
    axes.tick_params(axis="x", labelsize=8)
    axes.xaxis.set_minor_locator(NullLocator())
    _unit(axes.yaxis, "bandwidth")
    axes.set_xlabel("size of the array")
    figure.subplots_adjust(bottom=0.16)
    _save(figure, out, "bandwidth", caption)


def startup(medians: Medians, out: Path, caption: str) -> None:
    """Time until all workers are ready, and memory of each, by their number."""
    counts = {f"{n:,}": float(n) for n in (1, 2, 10, 30, 100, 300, 1000, 3000)}
    ready = _series(medians, "workers", "ready", counts)
    own = _series(medians, "workers", "private", counts)
    if not ready:
        return
    figure, axes = plt.subplots(1, 2, figsize=(11.5, 5))
    figure.subplots_adjust(wspace=0.75, bottom=0.16)
    for axis, series, title, unit in (
        (axes[0], ready, "Until all workers are ready", "seconds"),
        (axes[1], own, "Private memory of a worker", "bytes"),
    ):
        _lines(axis, series, {"fork"})
        axis.set_title(title)
        xs = sorted({x for points in series.values() for x, _ in points})
        axis.set_xticks(xs, [f"{x:,.0f}" for x in xs])
        axis.tick_params(axis="x", labelsize=8)
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set_xlabel("workers")
        ticks = None
        if unit == "bytes":
            low, high = axis.get_ylim()
            round_figures = [m * 10.0 ** k for k in range(4, 9) for m in (1, 2, 5)]
            ticks = [value for value in round_figures if low <= value <= high]
        _unit(axis.yaxis, unit, ticks)
    _save(figure, out, "startup", caption)


def main(source: str, target: str) -> None:
    """Draw what the results have figures for."""
    results = json.loads(Path(source).read_text())
    out = Path(target)
    medians = Medians(results)
    machine = results["machine"]
    caption = (
        f"distex {machine['versions']['distex']}, Python {machine['versions']['python']}, "
        f"{machine['cpus']} x {machine['cpu']}, Linux {machine['kernel']}, medians of "
        f"{results['rounds']} round{'s' * (results['rounds'] > 1)}, {machine['date']}")
    throughput(medians, out, caption)
    latency(results, medians, out, caption)
    bandwidth(medians, out, caption)
    startup(medians, out, caption)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
