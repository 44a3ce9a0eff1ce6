"""Where code comes from: a pool works with what a program defines, however the program is run."""

import os
import subprocess
import sys
import zipapp

import pytest

SOURCE = """
from distex import LoopType, Pool
cache = {}
class Job:
    def __init__(self, n): self.n = n
def fill(key):
    known = key in cache
    cache[key] = 1
    return known
def make(n): return Job(n)
def use():
    with Pool(1, worker_loop=LoopType.KIND) as pool:
        print(pool.run(fill, 1), pool.run(fill, 1), type(pool.run(make, 3)) is Job)
"""
GUARDED = SOURCE + "if __name__ == '__main__': use()\n"
RIGHT = "False True True"


@pytest.fixture(params=["uvloop", "asyncio"])
def kind(request):
    """Return the kind of the workers' event loop."""
    return request.param


@pytest.fixture
def python(tmp_path, kind):
    """Return a function that runs an interpreter in the test's folder and returns its output."""
    def run(*arguments, stdin=""):
        done = subprocess.run(
            [sys.executable, *arguments], input=stdin.replace("KIND", kind), text=True,
            cwd=tmp_path, capture_output=True, timeout=50,
            env={**os.environ, "PYTHON_BASIC_REPL": "1"})
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout
    return run


@pytest.fixture
def write(tmp_path, kind):
    """Return a function that writes a file into the test's folder and returns its name."""
    def write(name, source):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(source.replace("KIND", kind))
        return name
    return write


def test_a_script(python, write):
    assert python(write("script.py", GUARDED)).splitlines() == [RIGHT]


def test_the_option_c(python, kind):
    assert python("-c", (SOURCE + "use()").replace("KIND", kind)).splitlines() == [RIGHT]


def test_standard_input(python):
    assert python("-", stdin=SOURCE + "use()").splitlines() == [RIGHT]


def test_an_interactive_interpreter(python):
    source = SOURCE.replace("\nclass", "\n\nclass").replace("\ndef", "\n\ndef")
    again = "\nclass Job:\n    pass\n\ndef make(n): return Job()\n\nuse()\n"
    lines = python("-i", "-q", stdin=source + "\nuse()\n" + again).splitlines()
    assert lines == [RIGHT, RIGHT]


def test_a_script_that_goes_on_interactively(python, write):
    lines = python("-i", "-q", write("script.py", GUARDED), stdin="use()\n").splitlines()
    assert lines == [RIGHT, RIGHT]


def test_a_package_that_is_run(python, write):
    write("package/__init__.py", "")
    write("package/__main__.py", GUARDED)
    assert python("-m", "package").splitlines() == [RIGHT]


def test_a_module_that_is_run(python, write):
    write("module.py", GUARDED)
    assert python("-m", "module").splitlines() == [RIGHT]


def test_a_zipapp(python, write, tmp_path):
    write("app/__main__.py", GUARDED)
    zipapp.create_archive(tmp_path / "app", tmp_path / "app.pyz")
    assert python("app.pyz").splitlines() == [RIGHT]


def test_a_profiled_script(python, write):
    assert RIGHT in python("-m", "cProfile", write("script.py", GUARDED)).splitlines()


def test_a_debugged_script(python, write):
    lines = python("-m", "pdb", "-c", "continue", write("script.py", GUARDED), stdin="quit\n")
    assert RIGHT in lines.splitlines()


def test_a_doctest(python, write):
    examples = "".join(
        f"{'... ' if line.startswith(' ') else '>>> '}{line}\n"
        + ("... \n" if line.startswith("def make") else "")
        for line in SOURCE.strip().splitlines())
    write("examples.txt", f"{examples}... \n>>> use()\n{RIGHT}\n")
    assert python("-m", "doctest", "examples.txt") == ""


PYTEST = SOURCE + f"""
def test_pool(capsys):
    use()
    assert capsys.readouterr().out == "{RIGHT}\\n"
"""


@pytest.mark.parametrize("options", [
    (), ("--import-mode=importlib",), ("-n", "1"), ("-n", "1", "--import-mode=importlib"),
], ids=" ".join)
def test_a_test_of_pytests(python, write, options):
    write("tests/test_pool.py", PYTEST)
    output = python("-m", "pytest", "-q", "-p", "no:cacheprovider", *options, "tests")
    assert "1 passed" in output


def test_a_script_in_ipython(python, write):
    assert RIGHT in python(
        "-m", "IPython", "--quick", "--no-banner", write("script.py", GUARDED)).splitlines()


def test_cells_of_ipython(python):
    cells = SOURCE.replace("\nclass", "\n\nclass").replace("\ndef", "\n\ndef")
    again = "\n\nclass Job:\n    pass\n\ndef make(n): return Job()\n\nuse()\n"
    output = python(
        "-m", "IPython", "--quick", "--no-banner", "--simple-prompt",
        stdin=f"{cells}\n\nuse()\n{again}")
    assert output.count(RIGHT) == 2, output
