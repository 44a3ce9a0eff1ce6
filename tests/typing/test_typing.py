"""What types promise to users: type checkers, each as strict as it can be, understand a program of
theirs, and report what they should not have written.

In accepted.py and rejected.py a comment says what has to be reported of its line::

    pool.run(square, "a")  # E              by all checkers
    pool.run(lambda n: n + 1, 1)  # E: pyright    by this one alone

That the package itself is clean, and that the stubs match the compiled modules, `make lint` sees to.
"""

import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import get_args, get_origin, get_type_hints

import pytest

import distex
from distex import AsyncTask

pytest.importorskip("mypy", reason="comes with the dependency group 'lint'")
pytest.importorskip("pyright", reason="comes with the dependency group 'lint'")

ROOT = Path(__file__).parents[2]
PROGRAMS = [Path("tests/typing/accepted.py"), Path("tests/typing/rejected.py")]
MARK = re.compile(r"# E(?:: (?P<checker>\w+))?(?= *(?:#|$))")

# a line -> what is said of it
Reports = dict[tuple[Path, int], list[str]]


@pytest.mark.timeout(300)
def test_mypy_understands_the_programs():
    compare("mypy", mypy)


@pytest.mark.timeout(300)
def test_pyright_understands_the_programs():
    compare("pyright", pyright)


@pytest.mark.timeout(300)
def test_the_types_of_all_public_names_are_known():
    """None of them leads to a type that pyright would have to guess, or can't know."""
    # it looks for the package with the 'python' of PATH only
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = run("-m", "pyright", "--outputjson", "--verifytypes", "distex", "--ignoreexternal",
               env={**os.environ, "PATH": path})
    symbols = json.loads(done.stdout)["typeCompleteness"]["symbols"]
    known = {symbol["name"]: symbol["isTypeKnown"] for symbol in symbols}
    unknown = [name for name in distex.__all__
               if not name.startswith("__") and not known[f"distex.{name}"]]
    reasons = [f"{symbol['name']}: {report['message']}"
               for symbol in symbols for report in symbol["diagnostics"]]
    assert not unknown, "\n".join([f"not known: {', '.join(unknown)}; of all modules:", *reasons])


def test_a_task_is_generic_at_run_time():
    def wait_for(task: AsyncTask[int], *others: distex.AsyncTask[str | None]) -> None: ...

    hints = get_type_hints(wait_for)
    assert "AsyncTask" in distex.__all__
    assert get_origin(hints["task"]) is distex.AsyncTask is AsyncTask
    assert get_args(hints["task"]) == (int,)
    assert get_args(hints["others"]) == (str | None,)
    assert issubclass(AsyncTask, Coroutine)  # as types say


def compare(checker: str, check: Callable[[], Reports]) -> None:
    """Hold what a checker reports against the marks."""
    reports = check()
    marked = marks(checker)
    problems = [
        f"{path}:{number}: not to be reported: {'; '.join(reports[path, number])}"
        for path, number in sorted(reports.keys() - marked.keys())]
    problems += [
        f"{path}:{number}: not reported: {marked[path, number]}"
        for path, number in sorted(marked.keys() - reports.keys())]
    assert not problems, "\n".join([f"{checker} reports something else than is marked", *problems])


def marks(checker: str) -> dict[tuple[Path, int], str]:
    """The lines that this checker has to report, with their text."""
    marked: dict[tuple[Path, int], str] = {}
    for path in PROGRAMS:
        for number, line in enumerate((ROOT / path).read_text().splitlines(), 1):
            mark = MARK.search(line)
            if mark and mark["checker"] in (None, checker):
                marked[path, number] = line.strip()
    assert marked
    return marked


def mypy() -> Reports:
    # with a cache of its own: those of other runs may be locked
    done = run("-m", "mypy", "--strict", "--output", "json", "--cache-dir", ".mypy_cache/programs",
               *map(str, PROGRAMS))
    reports: Reports = defaultdict(list)
    for line in done.stdout.splitlines():
        report = json.loads(line)
        if report["severity"] == "error":
            reports[Path(report["file"]), report["line"]].append(report["message"])
    return reports


def pyright() -> Reports:
    done = run("-m", "pyright", "--outputjson", "--pythonpath", sys.executable,
               *map(str, PROGRAMS))
    reports: Reports = defaultdict(list)
    for report in json.loads(done.stdout)["generalDiagnostics"]:
        path = Path(report["file"]).relative_to(ROOT)
        reports[path, report["range"]["start"]["line"] + 1].append(report["message"])
    return reports


def run(
    *args: str, env: dict[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run a checker in the checkout; fail if it can't say what it found."""
    done = subprocess.run(
        [sys.executable, *args], cwd=ROOT, env=env, text=True, capture_output=True, timeout=280)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done
