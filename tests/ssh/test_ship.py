"""Modules that are only here run on other hosts if they are shipped; else the error says how."""

import contextlib
import importlib
import os
import signal
import sys

import cloudpickle
import pytest
from machine import wait_until

from distex import PickleType, Pool, PoolStartError

from .support import make_command

TOOL = '''
"""A module that is only here."""
import parts.shapes
from parts.errors import Wrong

calls = 0
setting = "as imported"


def twice(x):
    return 2 * once(x)


def once(x):
    return x


def count():
    global calls
    calls += 1
    return calls


def get():
    return setting


def change(value):
    global setting
    setting = value


def area(shape):
    assert type(shape) is parts.shapes.Square, "it is an instance of another class"
    return shape.area()


def larger(shape):
    return parts.shapes.Square(shape.side + 1)


def later():
    from parts import late
    return late.VALUE


def fail():
    raise Wrong("as told")


async def slowly(x):
    return 2 * x
'''
FILES = {
    "tool.py": TOOL,
    "parts/__init__.py": "",
    "parts/shapes.py": """
class Square:
    made = 0

    def __init__(self, side):
        self.side = side

    def area(self):
        return self.side ** 2

    def __eq__(self, other):
        return type(other) is Square and other.side == self.side

    __hash__ = None
""",
    "parts/errors.py": "class Wrong(Exception):\n    pass",
    "parts/late.py": "VALUE = 'late'",
    "parts/words.txt": "some words",
}


@pytest.fixture
def here(tmp_path_factory):
    """Modules that can be imported here, and not on the host."""
    folder = tmp_path_factory.mktemp("here")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    yield
    sys.path.remove(str(folder))
    for name in set(sys.modules) - before:
        if name.split(".")[0] in ("tool", "parts"):
            del sys.modules[name]


@pytest.fixture
def tool(here):
    import tool

    return tool


@pytest.fixture
def parts(here):
    import parts.shapes

    return parts


def test_without_it_the_error_says_what_is_missing_and_how_to_ship_it(sshd, tool):
    with Pool(0, sshd.spec(1)) as pool:
        with pytest.raises(ModuleNotFoundError, match="'tool'") as caught:
            pool.run(tool.twice, 4)
        (missing, where) = caught.value.__notes__
        assert f"127.0.0.1:{sshd.port} has no module 'tool': install it there" in missing
        assert "Pool(ship=[tool])" in missing
        assert "while tool.twice was being loaded" in where


def test_what_is_missing_here_too_can_only_be_installed(sshd):
    def task():
        import no_such_module

        return no_such_module

    with Pool(0, sshd.spec(1)) as pool:
        with pytest.raises(ModuleNotFoundError) as caught:
            pool.run(task)
        (note,) = caught.value.__notes__
        assert note.endswith("has no module 'no_such_module': install it there")


def test_it_is_said_of_arguments_too(sshd, parts):
    with Pool(0, sshd.spec(1)) as pool, pytest.raises(ModuleNotFoundError) as caught:
        pool.run(abs, parts.shapes.Square(3))
    assert any("Pool(ship=[parts])" in note for note in caught.value.__notes__)


@pytest.fixture
def ship(sshd):
    """Makes pools of one worker, which ship modules."""
    with contextlib.ExitStack() as stack:
        def make(*modules, workers=1, **options):
            return stack.enter_context(Pool(0, sshd.spec(workers), ship=modules, **options))
        yield make


def test_functions_that_use_each_other_their_module_and_a_package(ship, tool, parts):
    pool = ship(tool, parts)
    assert pool.run(tool.twice, 4) == 8
    assert list(pool.map(tool.twice, range(100))) == [2 * x for x in range(100)]
    assert pool.run(tool.slowly, 4) == 8
    assert pool.run(tool.later) == "late"
    assert pool.run(lambda x: tool.twice(x) + 1, 4) == 9  # by a function that goes by value
    # a module that is data, and one in a closure
    assert pool.run(lambda module: module.twice(4), tool) == 8
    assert pool.run(len, [parts]) == 1
    # the data of a package
    assert pool.run(lambda: __import__("pkgutil").get_data("parts", "words.txt")) == b"some words"


def test_classes_are_the_same_in_every_call_and_here(ship, tool, parts):
    pool = ship(tool, parts)
    square = parts.shapes.Square(3)
    assert pool.run(tool.area, square) == 9
    assert pool.run(parts.shapes.Square.area, square) == 9
    assert pool.run(square.area) == 9
    assert pool.run(parts.shapes.Square, 3) == square
    bigger = pool.run(tool.larger, square)
    assert type(bigger) is parts.shapes.Square
    assert pool.run(tool.area, bigger) == 16
    assert pool.run(isinstance, bigger, parts.shapes.Square) is True

    def make():
        parts.shapes.Square.made += 1
        return parts.shapes.Square.made

    assert [pool.run(make) for _ in range(3)] == [1, 2, 3]


def test_the_state_of_a_module_is_kept(ship, tool, parts):
    pool = ship(tool, parts)
    assert [pool.run(tool.count) for _ in range(3)] == [1, 2, 3]
    assert tool.calls == 0  # here nothing has changed
    pool.run(tool.change, "changed")
    assert pool.run(tool.get) == "changed"
    assert pool.run(lambda: tool.setting) == "changed"


def test_exceptions_arrive_as_themselves(ship, tool, parts):
    pool = ship(tool, parts)
    with pytest.raises(tool.Wrong, match="as told") as caught:
        pool.run(tool.fail)
    assert 'raise Wrong("as told")' in str(caught.value.__cause__)  # the source is there to show


def test_initializers(ship, tool, parts):
    pool = ship(tool, parts, workers=2, initializer=tool.change, initargs=("prepared",))
    assert pool.run_on_all(tool.get) == ["prepared", "prepared"]


@pytest.mark.parametrize("kind", [PickleType.pickle, PickleType.cloudpickle, PickleType.dill])
def test_with_each_serializer(ship, tool, parts, kind):
    pool = ship(tool, parts, func_pickle=kind, data_pickle=kind)
    assert pool.run(tool.twice, 4) == 8
    assert pool.run(tool.area, parts.shapes.Square(3)) == 9
    assert pool.run(tool.larger, parts.shapes.Square(3)) == parts.shapes.Square(4)


def test_two_pools_one_of_which_ships(ship, sshd, tool, parts):
    with_it, without = ship(tool, parts), ship()
    for _ in range(2):
        assert with_it.run(tool.twice, 4) == 8
        with pytest.raises(ModuleNotFoundError):
            without.run(tool.twice, 4)


def test_it_comes_before_what_is_installed_there(ship, sshd, tmp_path, tool, parts):
    (tmp_path / "tool.py").write_text("def twice(x): return 'the old one'")
    python = make_command(
        tmp_path / "python", f'PYTHONPATH="{tmp_path}" exec "{sys.executable}" "$@"')
    with Pool(0, sshd.spec(1, python=python)) as pool:
        assert pool.run(tool.twice, 4) == "the old one"
    with Pool(0, sshd.spec(1, python=python), ship=[tool, parts]) as pool:
        assert pool.run(tool.twice, 4) == 8


def test_a_new_nanny_gets_it_too(ship, sshd, tool, parts):
    pool = ship(tool, parts)
    assert pool.run(tool.twice, 4) == 8
    sshd.cut()
    wait_until(lambda: pool.total_workers() == 0, "the loss to be noticed")
    assert pool.run(tool.twice, 4) == 8


def test_nothing_of_it_is_left(sshd, tool, parts):
    with Pool(0, sshd.spec(1), ship=[tool, parts]) as pool:
        (path,) = {pool.run(lambda: tool.__file__)}
        cache = sshd.home / ".cache" / "distex"
        assert path.startswith(f"{cache}/modules-")
    assert not list(sshd.tmp.iterdir())
    assert not list(cache.iterdir())


def test_what_a_nanny_left_that_was_killed_is_removed_by_the_next(sshd, tool, parts):
    cache = sshd.home / ".cache" / "distex"
    with Pool(0, sshd.spec(1), ship=[tool, parts]) as pool:
        left, = cache.iterdir()
        nanny = pool.run(os.getppid)
        os.kill(nanny, signal.SIGKILL)
        wait_until(lambda: not left.exists(), "its end")
        assert pool.run(tool.twice, 4) == 8
    assert not list(cache.iterdir())


def test_local_workers_import_what_is_here(tool, parts):
    with Pool(1, ship=[tool, parts]) as pool:
        assert pool.run(lambda: tool.__file__) == tool.__file__
        assert pool.run(tool.twice, 4) == 8


def test_local_workers_get_what_only_this_process_can_import(tool, parts, monkeypatch):
    monkeypatch.setattr(sys, "path", [path for path in sys.path if "here" not in path])
    with Pool(1, ship=[tool, parts]) as pool:
        assert pool.run(tool.twice, 4) == 8


def test_what_has_no_file_goes_by_value_with_cloudpickle(sshd, here):
    """Modules made at run time can't be shipped; cloudpickle's own registry serves them."""
    import types

    made = types.ModuleType("made")
    exec("factor = 2\n"
         "def scale(x): return factor * x\n"
         "class Thing:\n"
         "    def __init__(self, x): self.x = x\n"
         "def value(thing): return scale(thing.x)", made.__dict__)
    sys.modules["made"] = made
    try:
        with pytest.raises(ValueError, match="register_pickle_by_value"):
            Pool(0, sshd.spec(1), ship=[made])
        cloudpickle.register_pickle_by_value(made)
        try:
            with Pool(0, sshd.spec(1)) as pool:
                assert pool.run(made.scale, 4) == 8
                assert pool.run(lambda thing: thing.x, made.Thing(5)) == 5
                assert pool.run(made.value, made.Thing(5)) == 10
                made.factor = 3
                assert pool.run(made.scale, 4) == 12
        finally:
            cloudpickle.unregister_pickle_by_value(made)
    finally:
        del sys.modules["made"]


def test_no_room(sshd, tool, parts, tmp_path, small_disk):
    disk = small_disk(4)  # room for the folders and the lock in them
    python = make_command(tmp_path / "python", f'XDG_CACHE_HOME={disk} exec "{sys.executable}" "$@"')
    with pytest.raises(PoolStartError, match=r"no room for the modules in Pool\(ship=...\)"):
        Pool(0, sshd.spec(1, python=python), ship=[tool, parts])
    assert not list((disk / "distex").iterdir())
