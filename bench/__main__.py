"""The command: ``python -m bench``. See __init__.py for what happens then."""

import argparse
import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench import envs, plan, report, runner
from bench.bars import bars


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Measure distex beside other process pools.")
    parser.add_argument("--quick", action="store_true", help="the small set, under two minutes")
    parser.add_argument("--only", metavar="NAME", action="append",
                        help="only the experiments whose name begins so; may be repeated")
    parser.add_argument("--rounds", type=int, metavar="N", help="default 5; 1 with --quick")
    parser.add_argument("--peers", metavar="A,B", help="only these peers, beside distex")
    parser.add_argument("--out", type=Path, default=Path("build/bench"), metavar="DIR",
                        help="where results.json, report.md and the plots go")
    parser.add_argument("--check", action="store_true",
                        help="print each bar and whether it is reached; exit code 1 if one is not")
    parser.add_argument("--from", type=Path, metavar="FILE", dest="file",
                        help="measure nothing, report and plot this results.json")
    parser.add_argument("--update", action="store_true",
                        help="keep what is in results.json of experiments that are not measured")
    parser.add_argument("--seed", type=int, default=1, help="of the order of measurements")
    parser.add_argument("--no-plots", action="store_true", help="draw none")
    parser.add_argument("--list", action="store_true", help="print the names of experiments")
    return parser.parse_args()


def _chosen(args: argparse.Namespace) -> list[plan.Experiment]:
    """The experiments that were asked for, with the rows that were asked for."""
    chosen = plan.experiments(args.quick)
    if args.only:
        chosen = [each for each in chosen if each.name.startswith(tuple(args.only))]
        if not chosen:
            sys.exit(f"no experiment is named {' or '.join(args.only)}; see --list")
    if args.peers is None:
        return chosen
    wanted = {peer.strip().lower() for peer in args.peers.split(",") if peer.strip()}
    known = {row.base.lower() for each in chosen for row in each.rows}
    if unknown := wanted - known:
        sys.exit(f"unknown peers {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    wanted |= {"distex", "limits"}
    return [
        dataclasses.replace(
            each, rows=tuple(row for row in each.rows if row.base.lower() in wanted))
        for each in chosen]


def _measure(args: argparse.Namespace) -> dict[str, Any]:
    rounds = args.rounds or (1 if args.quick else 5)
    kept = json.loads((args.out / "results.json").read_text()) if args.update else None

    def whole(results: dict[str, Any]) -> dict[str, Any]:
        measured = {sample["experiment"] for sample in results["samples"]}
        others = [sample for sample in (kept["samples"] if kept else ())
                  if sample["experiment"] not in measured]
        return {**results, "samples": others + results["samples"], "quick": args.quick}

    return whole(runner.run(_chosen(args), rounds, args.out, args.seed,
                            lambda results: _save(args.out, whole(results))))


def _save(out: Path, results: dict[str, Any]) -> None:
    (out / "results.json").write_text(json.dumps(results, indent=1, ensure_ascii=False))


def _plot(out: Path) -> None:
    """Draw in an environment that has matplotlib."""
    environment = envs.prepare("plots")
    if environment.missing:
        print(f"no plots: {environment.missing}", file=sys.stderr)
        return
    subprocess.run(
        [environment.python, "-m", "bench.plots", (out / "results.json").resolve(), out.resolve()],
        cwd=envs.child_path(), check=True)


def main() -> int:
    """Measure, report, plot."""
    args = _arguments()
    if args.list:
        for experiment in plan.experiments(args.quick):
            print(f"{experiment.name:18} {experiment.title}")
        return 0
    args.out.mkdir(parents=True, exist_ok=True)
    results = json.loads(args.file.read_text()) if args.file else _measure(args)
    _save(args.out, results)
    (args.out / "report.md").write_text(report.markdown(results))
    print(report.terminal(results))
    if not args.no_plots:
        _plot(args.out)
    print(f"written to {args.out}")
    if not args.check:
        return 0
    checked = bars(results)
    print("\nBars", *checked, sep="\n")
    return int(any(bar.passed is False for bar in checked))


if __name__ == "__main__":
    sys.exit(main())
