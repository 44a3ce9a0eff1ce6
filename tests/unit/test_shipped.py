"""Where a nanny keeps the modules that a pool ships: nobody else can put anything there."""

import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from machine import not_here

from distex.errors import DistexError
from distex.wire import modules
from distex.worker.shipped import Finder, ShippedModules


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """A module and a package, which can't be imported from anywhere else then."""
    source = tmp_path / "source"
    (source / "shipped_b").mkdir(parents=True)
    (source / "shipped_a.py").write_text("value = 'shipped'")
    (source / "shipped_b" / "__init__.py").write_text("value = 'shipped'")
    (source / "shipped_b" / "inner.py").write_text("value = 'inner'")
    with monkeypatch.context() as patch:
        patch.syspath_prepend(source)
        packed = modules.pack(map(importlib.import_module, ["shipped_a", "shipped_b"]))
    shutil.rmtree(source)
    forget()
    yield packed
    forget()


def forget():
    for name in [name for name in sys.modules if name.startswith("shipped_")]:
        del sys.modules[name]
    importlib.invalidate_caches()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The folder for what is kept on this machine."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setenv("HOME", "/proc/none")
    return folder


@pytest.fixture
def ship(archive, cache):
    """Unpacks the modules."""
    made = []

    def unpack(first=True):
        made.append(ShippedModules(archive, first))
        return made[-1]

    yield unpack
    for shipped in made:
        shipped.remove()
    assert not [path for path in sys.path if path.startswith(str(cache))]
    assert not [finder for finder in sys.meta_path if isinstance(finder, Finder)]
    assert not list((cache / "distex").iterdir())


def test_names(archive):
    assert modules.names(archive) == {"shipped_a", "shipped_b"}


def test_they_are_last_in_the_path(ship):
    ship()
    folder = sys.path[-1]
    assert importlib.import_module("shipped_a").__file__ == f"{folder}/shipped_a.py"
    assert importlib.import_module("shipped_b.inner").value == "inner"


@pytest.mark.parametrize("first", [True, False])
def test_what_is_installed_under_their_names(ship, tmp_path, monkeypatch, first):
    (tmp_path / "shipped_a.py").write_text("value = 'installed'")
    monkeypatch.syspath_prepend(tmp_path)
    ship(first)
    importlib.invalidate_caches()
    assert importlib.import_module("shipped_a").value == ("shipped" if first else "installed")


def test_nothing_but_them_is_found_there_before_what_is_installed(ship, tmp_path, monkeypatch):
    (tmp_path / "shipped_c.py").write_text("value = 'installed'")
    monkeypatch.syspath_prepend(tmp_path)
    ship()
    Path(sys.path[-1], "shipped_c.py").write_text("value = 'put there'")
    importlib.invalidate_caches()
    assert importlib.import_module("shipped_c").value == "installed"


def test_only_this_user_can_make_what_is_there(ship, cache):
    ship()
    assert not cache.stat().st_mode & 0o022
    for folder in (cache / "distex", *(cache / "distex").iterdir()):
        assert folder.stat().st_uid == os.geteuid()
        assert not folder.stat().st_mode & 0o077


MAKE_ANEW = """
import os, sys
os.setuid(65534)
try:
    os.makedirs(sys.argv[1])
except PermissionError:
    sys.exit(0)
open(sys.argv[1] + "/shipped_a.py", "w").write("value = 'of somebody else'")
sys.exit(1)
"""


def test_another_user_can_t_make_them_anew_when_they_were_cleaned_away(ship, cache):
    """With a folder in /tmp that worked."""
    if os.geteuid() != 0:
        not_here("to be another user takes root")
    ship()
    folder = sys.path[-1]
    for removed in folder, os.path.dirname(folder):
        shutil.rmtree(removed)
        assert subprocess.run([sys.executable, "-c", MAKE_ANEW, folder], cwd="/").returncode == 0
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("shipped_a")
        os.makedirs(folder, 0o700)
    shutil.rmtree(os.path.dirname(folder))


@pytest.mark.parametrize("what", ["files/shipped_a.py", "files/shipped_b", "files", "."])
def test_what_was_cleaned_away_is_unpacked_again(ship, cache, what):
    shipped = ship()
    folder, = (cache / "distex").iterdir()
    (shutil.rmtree if (folder / what).is_dir() else os.unlink)(folder / what)
    shipped.see_to_them()
    importlib.invalidate_caches()
    assert importlib.import_module("shipped_a").value == "shipped"
    assert importlib.import_module("shipped_b.inner").value == "inner"


def test_what_is_left_of_those_that_were_killed_is_removed(ship, cache, archive):
    killed = subprocess.run([sys.executable, "-c", f"""
import os
from distex.worker.shipped import ShippedModules
kept = ShippedModules({archive!r}, True)
os._exit(0)
"""])
    assert killed.returncode == 0
    left, = (cache / "distex").iterdir()
    ship()
    assert not left.exists()
    ship()
    assert len(list((cache / "distex").iterdir())) == 2  # one that lives keeps what it has


@pytest.mark.parametrize("mode", [0o777, 0o775])
def test_a_cache_that_others_can_write_to_is_not_used(archive, cache, mode):
    cache.mkdir()
    cache.chmod(mode)
    with pytest.raises(DistexError, match="have XDG_CACHE_HOME name one"):
        ShippedModules(archive, True)
    assert not [finder for finder in sys.meta_path if isinstance(finder, Finder)]


def test_one_that_somebody_else_has_made_is_not_used(archive, cache):
    cache.mkdir()
    cache.chmod(0o1777)
    (cache / "distex").symlink_to("/tmp")
    with pytest.raises(DistexError):
        ShippedModules(archive, True)
