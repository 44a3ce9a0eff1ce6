"""Counts functions, branches and lines in every source file of the standard library, three ways:
in this process, with concurrent.futures.ProcessPoolExecutor and with distex.

    paths ──executor.map──> measure() in the workers ──> one Counts for each file

Progress goes to stderr, the table to stdout. Exits with 1 if the three do not agree.
"""

import ast
import os
import sys
import sysconfig
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

from distex import Pool

BRANCHES = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.IfExp, ast.ExceptHandler, ast.BoolOp,
            ast.comprehension, ast.match_case)
TOP = 10  # rows of the table


class Counts(NamedTuple):
    """What there is in one file; one that is no Python, as some test data, counts for nothing."""

    functions: int = 0
    branches: int = 0
    lines: int = 0


def measure(path):
    """Parse one file."""
    source = Path(path).read_bytes()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return Counts()
    functions = branches = 0
    for node in ast.walk(tree):
        functions += isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        branches += isinstance(node, BRANCHES)
    return Counts(functions, branches, source.count(b"\n"))


def with_progress(name, results, total):
    """The results as a list. A terminal sees a line that moves, a file a line at each quarter."""
    moving = sys.stderr.isatty()
    taken = []
    shown = 0
    for result in results:
        taken.append(result)
        step = (100 if moving else 4) * len(taken) // total
        if step > shown:
            shown = step
            percent = 100 * len(taken) // total
            print(f"{name:>20} {percent:4} %  {len(taken)} of {total} files",
                  end="\r" if moving else "\n", file=sys.stderr, flush=True)
    if moving:
        print(end="\033[K", file=sys.stderr)
    return taken


def main():
    """Measure, compare, report; the exit status."""
    root = Path(sysconfig.get_path("stdlib"))
    paths = [str(path) for path in sorted(root.rglob("*.py"))
             if not {"site-packages", "dist-packages"} & set(path.parts)]
    workers = os.cpu_count() or 1
    results, seconds = {}, {}

    begin = time.perf_counter()
    results["serial"] = with_progress("serial", map(measure, paths), len(paths))
    seconds["serial"] = time.perf_counter() - begin

    # the same code for both: distex.Pool is an Executor too
    for executor in (ProcessPoolExecutor, Pool):
        name = "distex" if executor is Pool else executor.__name__
        begin = time.perf_counter()
        with executor(workers) as pool:
            results[name] = with_progress(name, pool.map(measure, paths), len(paths))
        seconds[name] = time.perf_counter() - begin

    by_branches = sorted(zip(results["distex"], paths, strict=True),
                         key=lambda row: row[0].branches, reverse=True)
    print(f"{'functions':>9} {'branches':>9} {'lines':>9}  module")
    for counts, path in by_branches[:TOP]:
        module = str(Path(path).relative_to(root).with_suffix("")).replace(os.sep, ".")
        print(f"{counts.functions:9,} {counts.branches:9,} {counts.lines:9,}  {module}")
    totals = [sum(column) for column in zip(*results["distex"], strict=True)]
    print(f"{totals[0]:9,} {totals[1]:9,} {totals[2]:9,}  all {len(paths):,} files\n")

    print(f"seconds, with {workers} workers where there are any, starting them included")
    for name, taken in seconds.items():
        print(f"{taken:9.2f}  {name}")
    agree = all(result == results["serial"] for result in results.values())
    print("all three agree" if agree else "THEY DO NOT AGREE")
    return 0 if agree else 1


if __name__ == "__main__":  # for ProcessPoolExecutor; distex does without
    sys.exit(main())
