"""The wings of the house: imports run one way between them, and nowhere in a circle."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# the wings that a wing may import from; modules at the top of the package are wings of their own
ARROWS = {
    "_version": set(),
    "options": set(),
    "errors": set(),
    "machine": {"options"},
    "remote_errors": {"errors"},
    "_core": {"errors", "options", "remote_errors"},
    "wire": {"_core", "_version", "options", "errors", "machine", "remote_errors"},
    "worker": {"_core", "wire"},
    "launch": {"_core", "wire"},
    "cluster": {"_core", "launch", "wire"},
    "client": {"_core", "cluster", "launch", "wire"},
    "pool": {"_core", "client", "cluster", "launch", "wire"},
    "commands": {"_core", "pool", "client", "cluster", "launch", "wire", "worker"},
    # faces: they hand names on
    "": {"_core", "pool", "client", "cluster", "launch", "wire"},
    "__main__": {"commands"},
    "server": {"commands"},
}
GROUND = {"_version", "options", "errors", "machine", "remote_errors"}  # everybody may import these
FACES = {"", "__main__", "server"}
LONGEST = 650  # lines of a module
AT_THE_TOP = 10  # modules directly in distex/, beside the faces

# what is too long, and why it stays in one piece
LONG = {
    "_core/dispatch.pyx": "links and the queue use each other's private parts, all on the hot path",
}


def sources(folder="distex"):
    return sorted(path for path in (ROOT / folder).rglob("*.py") if "__pycache__" not in path.parts)


def name_of(path):
    """The name of a module without its package: "wire.tls", "" for distex itself."""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)[1:]
    return ".".join(parts[:-1] if parts[-1:] == ["__init__"] else parts)


PYTHON = {name_of(path): path for path in sources()}
CYTHON = sorted([*(ROOT / "_core").glob("*.pyx"), *(ROOT / "distex/_core").glob("*.pxd")])
MODULES = {*PYTHON, *(f"_core.{path.stem}" for path in CYTHON)}


def imported(tree):
    """Names of what the nodes import, with where in the tree."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import"
            yield from ((f"{node.module}.{alias.name}", node) for alias in node.names)


def ours(name, package="distex", modules=MODULES):
    """The module of the package that an import refers to, or None."""
    if name.split(".")[0] != package:
        return None
    name = name.removeprefix(package).removeprefix(".")
    while name not in modules and "." in name:
        name = name.rpartition(".")[0]
    return name if name in modules else ""


def imports_of_python(path, package="distex", modules=MODULES):
    """Modules of the package that a module imports: at its top, for its types, or anywhere."""
    tree = ast.parse(path.read_text())
    found = [(ours(name, package, modules), node) for name, node in imported(tree)]
    return {name for name, node in found if name is not None}


def imports_of_cython(path):
    found = set()
    for line in path.read_text().splitlines():
        words = line.split()
        if words[:1] == ["from"] and words[2:3] in (["import"], ["cimport"]):
            found.add(ours(words[1]))
    return found - {None}


def graph():
    """What each module imports, for types and within functions too."""
    arrows = {name: imports_of_python(path) - {name} for name, path in PYTHON.items()}
    for path in CYTHON:
        name = f"_core.{path.stem}"
        arrows.setdefault(name, set()).update(imports_of_cython(path) - {name})
    return arrows


def circle_in(arrows):
    """A circle of modules, or None."""
    done, stack = set(), []

    def visit(name):
        if name in stack:
            return [*stack[stack.index(name):], name]
        if name in done:
            return None
        stack.append(name)
        for other in sorted(arrows.get(name, ())):
            if (circle := visit(other)) is not None:
                return circle
        stack.pop()
        done.add(name)
        return None

    return next((circle for name in sorted(arrows) if (circle := visit(name)) is not None), None)


def wing_of(name):
    return name.split(".")[0]


def test_every_module_has_a_wing():
    assert {wing_of(name) for name in MODULES} == set(ARROWS)


@pytest.mark.parametrize("wing", [wing for wing in ARROWS if wing not in FACES])
def test_arrows_between_wings_are_those_of_the_plan(wing):
    allowed = ARROWS[wing] | GROUND | {wing} if wing not in {*GROUND, "_core"} else ARROWS[wing] | {wing}
    wrong = {f"{name} -> {other}" for name, others in graph().items() if wing_of(name) == wing
             for other in others if wing_of(other) not in allowed}
    assert not wrong


def test_no_module_is_in_a_circle():
    assert circle_in(graph()) is None


def test_the_benchmarks_are_in_no_circle():
    paths = {path.relative_to(ROOT / "bench").with_suffix("").as_posix(): path
             for path in sources("bench")}
    arrows = {name: imports_of_python(path, "bench", set(paths)) - {name, ""}
              for name, path in paths.items()}
    assert any(arrows.values())
    assert circle_in(arrows) is None


def test_a_circle_is_found():
    assert circle_in({"a": {"b"}, "b": {"c"}, "c": {"a"}}) is not None
    assert circle_in({"a": {"b", "c"}, "b": {"c"}, "c": set()}) is None


def test_no_module_is_long():
    paths = [*PYTHON.values(), *CYTHON, *sources("bench")]
    lines = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in paths}
    assert {path for path, length in lines.items() if length > LONGEST} == set(LONG)
    assert lines["distex/pool.py"] < 600


def test_few_modules_stand_at_the_top():
    at_the_top = {name for name in PYTHON if "." not in name and "/" not in name
                  and PYTHON[name].parent.name == "distex"} - FACES
    assert len(at_the_top) <= AT_THE_TOP
    for face in FACES - {""}:
        assert len(PYTHON[face].read_text().splitlines()) < 30


def test_every_module_says_what_it_is_for():
    for path in PYTHON.values():
        assert ast.get_docstring(ast.parse(path.read_text())), path
    for path in (ROOT / "_core").glob("*.pyx"):
        assert path.read_text().split("\n")[1].startswith('"""'), path


def loaded_by(statement):
    """The modules that a fresh interpreter has after a statement."""
    done = subprocess.run(
        [sys.executable, "-c", f"{statement}\nimport sys\nprint(*sys.modules)"],
        text=True, capture_output=True, timeout=50, check=True)
    return set(done.stdout.split())


OPTIONAL = {"asyncssh", "uvloop", "dill", "numpy"}


def test_the_package_imports_nothing_that_is_optional():
    assert not loaded_by("import distex") & OPTIONAL


def test_a_pool_imports_what_few_pools_need_when_they_need_it():
    """Each of these takes milliseconds, which every program would wait for."""
    dear = {"pathlib", "json", "zipfile", "importlib.resources", "ctypes", "multiprocessing"}
    loaded = loaded_by("import distex.pool") - loaded_by("import asyncio")
    assert not loaded & (OPTIONAL | dear)


def test_a_worker_imports_neither_the_pool_nor_anything_optional():
    loaded = loaded_by("import distex.worker.process, distex.worker.nanny")
    assert "distex.worker.process" in loaded
    assert not loaded & OPTIONAL
    assert not {name for name in loaded if name.startswith(
        ("distex.pool", "distex.client", "distex.cluster", "distex.launch", "multiprocessing"))}
