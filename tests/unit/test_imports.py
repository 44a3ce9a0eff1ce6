"""The floors of the house: each module imports only from below, and none more than it needs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "distex"
SOURCES = PACKAGE.parent / "_core"

# from the ground up; a module may import from lower floors, and from its own one those before it
FLOORS = [
    ["errors", "failures", "options", "notes", "memory", "output"],
    ["_core.references", "_core.polling", "_core.iteration", "_core.flatten", "_core.process",
     "_core.blocks", "_core.framing", "_core.codec", "_core.room", "messages", "serializers",
     "versions"],
    ["_core.dispatch", "_core.ring", "_core.lane", "_core.futures", "_core.kept", "_core.caller",
     "_core.protocol", "_core.execute", "functions", "namespace", "contexts", "interrupts", "shipping"],
    ["secret", "gate", "worker", "nanny"],
    ["launch.hosts", "launch.stream", "launch.local", "launch.ssh", "launch.server", "launch",
     "relay", "server", "join"],
    ["records", "greeter", "listener", "elastic", "supervisor", "mapping", "executor",
     "admission", "calls"],
    ["pool"],
    ["check"],
    ["", "__main__"],
]
ORDER = [module for floor in FLOORS for module in floor]


def module_name(path):
    parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of_python(path):
    """Modules of distex that are imported at the top of a module, and anywhere in it."""
    tree = ast.parse(path.read_text())
    at_top, anywhere = set(), set()
    type_checking = {
        id(node) for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    top = set(map(id, tree.body))
    for node in ast.walk(tree):
        if id(node) in type_checking:
            continue
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        found = set(filter(lambda name: name is not None, map(ours, names)))
        anywhere |= found
        if id(node) in top:
            at_top |= found
    return at_top, anywhere


def imports_of_cython(path):
    found = set()
    for line in path.read_text().splitlines():
        words = line.split()
        if words[:1] == ["from"] and words[2:3] in (["import"], ["cimport"]):
            found.add(ours(words[1]))
    return found - {None}


def ours(name):
    """The module of distex that an import refers to, or None."""
    if name.split(".")[0] != "distex":
        return None
    name = name.removeprefix("distex").removeprefix(".")
    if name == "__version__":  # it is there before anything else is
        return None
    while name not in ORDER and "." in name:
        name = name.rpartition(".")[0]
    return name if name in ORDER else ""


PYTHON = sorted(path for path in PACKAGE.rglob("*.py") if path.parent.name != "_core")
CYTHON = sorted([*SOURCES.glob("*.pyx"), *PACKAGE.glob("_core/*.pxd")])


def test_every_module_has_its_floor():
    assert {module_name(path) for path in PYTHON} <= set(ORDER)
    assert {f"_core.{path.stem}" for path in CYTHON} <= set(ORDER)


@pytest.mark.parametrize("path", PYTHON, ids=module_name)
def test_imports_go_down(path):
    module = module_name(path)
    at_top, _ = imports_of_python(path)
    higher = [name for name in at_top if ORDER.index(name) >= ORDER.index(module)]
    assert not higher, f"{module} imports from above: {higher}"


@pytest.mark.parametrize("path", CYTHON, ids=lambda path: path.name)
def test_imports_of_the_core_go_down(path):
    module = f"_core.{path.stem}"
    higher = [name for name in imports_of_cython(path) - {module}
              if ORDER.index(name) >= ORDER.index(module)]
    assert not higher, f"{module} imports from above: {higher}"


@pytest.mark.parametrize("module", ["worker", "nanny"])
def test_a_worker_never_reaches_for_the_pool(module):
    """Not inside of functions either, but for the version in the nanny's script."""
    seen, todo = set(), [module]
    while todo:
        name = todo.pop()
        if name in seen or name.startswith("_core") or name == "":
            continue
        seen.add(name)
        todo.extend(imports_of_python(PACKAGE / f"{name.replace('.', '/')}.py")[1])
    assert not seen & {"pool", "mapping", "executor", "supervisor", "launch.local", "launch.ssh"}


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
    dear = {"pathlib", "json", "zipfile", "importlib.resources", "ctypes"}
    loaded = loaded_by("import distex.pool") - loaded_by("import asyncio")
    assert not loaded & (OPTIONAL | dear)


def test_a_worker_imports_neither_the_pool_nor_anything_optional():
    loaded = loaded_by("import distex.worker, distex.nanny")
    assert "distex.worker" in loaded
    assert not loaded & OPTIONAL
    assert not loaded & {"distex.pool", "distex.mapping", "distex.supervisor", "distex.executor"}
