"""Modules are packed as they are found here, and can be imported where they are unpacked."""

import importlib
import importlib.util
import json
import math
import subprocess
import sys
import types
import zipfile

import pytest

from distex.wire import modules as shipping

FILES = {
    "alone.py": "from pack.inner import deep\nVALUE = 1\ndef value(): return VALUE + deep.VALUE",
    "pack/__init__.py": "NAME = 'pack'",
    "pack/inner/__init__.py": "",
    "pack/inner/deep.py": "VALUE = 41",
    "pack/never_imported.py": "VALUE = 'so late'",
    "pack/data/words.txt": "some words",
    "space/mine/__init__.py": "VALUE = 'mine'",
    "space/yours/__init__.py": "VALUE = 'yours'",
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with modules, which can be imported from it in this process for as long as the test
    lasts."""
    folder = tmp_path / "here"
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    monkeypatch.syspath_prepend(folder)
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        del sys.modules[name]


def there(tmp_path, archive, expression, **names):
    """What an expression gives in a process that can import what was unpacked, and not what is
    here."""
    folder = tmp_path / "there"
    shipping.unpack(archive, str(folder))
    code = (f"import sys, json; sys.path.insert(0, {str(folder)!r}); "
            f"from importlib import import_module, resources; print(json.dumps({expression}))")
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def files(archive, tmp_path):
    (tmp_path / "archive").write_bytes(archive)
    with zipfile.ZipFile(tmp_path / "archive") as source:
        return set(source.namelist())


def test_a_module_and_a_package(here, tmp_path):
    import alone
    import pack

    archive = shipping.pack([alone, pack])
    assert there(tmp_path, archive, "import_module('alone').value()") == 42
    assert there(tmp_path, archive, "import_module('pack.never_imported').VALUE") == "so late"


def test_the_data_of_a_package(here, tmp_path):
    import pack

    archive = shipping.pack([pack])
    assert there(tmp_path, archive, "resources.files('pack').joinpath('data/words.txt').read_text()"
                 ) == "some words"
    assert there(tmp_path, archive, "open(import_module('pack').__file__).read()") == "NAME = 'pack'"


def test_a_module_of_a_package_stands_for_the_package(here, tmp_path):
    import pack.inner.deep

    assert files(shipping.pack([pack.inner.deep]), tmp_path) == {
        "pack/__init__.py", "pack/inner/__init__.py", "pack/inner/deep.py",
        "pack/never_imported.py", "pack/data/words.txt"}


def test_of_a_namespace_package_only_the_part_that_is_named(here, tmp_path):
    import space.mine

    assert files(shipping.pack([space.mine]), tmp_path) == {"space/mine/__init__.py"}
    assert files(shipping.pack([space]), tmp_path) == {
        "space/mine/__init__.py", "space/yours/__init__.py"}


def test_bytecode_caches_stay_here(here, tmp_path):
    import pack

    (here / "pack" / "__pycache__").mkdir(exist_ok=True)
    (here / "pack" / "__pycache__" / "old.pyc").write_bytes(b"old")
    assert not any("__pycache__" in name for name in files(shipping.pack([pack]), tmp_path))


def test_modules_in_a_zip_file(tmp_path, monkeypatch):
    path = tmp_path / "modules.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("zipped.py", "VALUE = 1")
        archive.writestr("zippack/__init__.py", "from zippack.sub import VALUE")
        archive.writestr("zippack/sub.py", "VALUE = 2")
    monkeypatch.syspath_prepend(path)
    zipped, zippack = importlib.import_module("zipped"), importlib.import_module("zippack")
    try:
        archive = shipping.pack([zipped, zippack])
        assert there(tmp_path, archive, "[import_module(name).VALUE "
                                        "for name in ('zipped', 'zippack')]") == [1, 2]
    finally:
        for name in ("zipped", "zippack", "zippack.sub"):
            del sys.modules[name]


def test_a_module_that_was_loaded_from_a_file_of_another_name(tmp_path):
    (tmp_path / "some script").write_text("VALUE = 7")
    loader = importlib.machinery.SourceFileLoader("named", str(tmp_path / "some script"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("named", loader))
    loader.exec_module(module)
    archive = shipping.pack([module])
    assert there(tmp_path, archive, "import_module('named').VALUE") == 7


def test_an_extension_module(tmp_path):
    from distex._core import codec

    suffix = importlib.machinery.EXTENSION_SUFFIXES[0]
    assert f"distex/_core/codec{suffix}" in files(shipping.pack([codec]), tmp_path)


def test_nothing_to_ship():
    assert shipping.pack([]) == b""


@pytest.mark.parametrize("module", [sys, types.ModuleType("made_up")], ids=lambda it: it.__name__)
def test_modules_without_a_file_are_refused(module):
    with pytest.raises(ValueError, match=f"'{module.__name__}' has no file"):
        shipping.pack([module])


def test_main_is_refused():
    with pytest.raises(ValueError, match="goes by value anyway"):
        shipping.pack([sys.modules["__main__"]])


@pytest.mark.parametrize("value", ["math", None, math.sin])
def test_what_is_no_module_is_refused(value):
    with pytest.raises(TypeError, match="ship takes modules"):
        shipping.pack([value])


def test_too_large(tmp_path, monkeypatch, here):
    import random

    import alone

    monkeypatch.setattr(shipping, "ARCHIVE_LIMIT_BYTES", 100_000)  # to compress takes seconds
    (here / "alone.py").write_bytes(random.Random(1).randbytes(shipping.ARCHIVE_LIMIT_BYTES + 1))
    with pytest.raises(ValueError, match="install them on the hosts"):
        shipping.pack([alone])
