"""Ship modules to other hosts (Pool(ship=...)): packed here, unpacked and imported there.

    modules ──pack──> archive ──Configure──> nanny ──unpack──> a folder on the workers' sys.path

They go as the files that they are, and are imported there as any module is. So all that refers to
them by name keeps working: functions and classes, arguments, results and exceptions, an import in a
function, a package's data. A class is the same class in every call and for the caller, and a
module's state is kept from call to call. Pickled by value none of that would hold.
"""

import importlib.machinery
import io
import os
import re
import sys
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any

from distex.wire.messages import LIMIT_BYTES

ARCHIVE_LIMIT_BYTES = LIMIT_BYTES // 2  # compressed; what is larger is better installed


def pack(modules: Iterable[ModuleType]) -> bytes:
    """The files of modules and packages, as they are now.

    Args:
        modules: a module of a package stands for the whole package.

    Returns:
        an archive for unpack(); empty if there are no modules.

    Raises:
        TypeError: something is not a module.
        ValueError: a module has no files, or they are too large.
    """
    files: dict[str, bytes] = {}
    for module in modules:
        if not isinstance(module, ModuleType):
            raise TypeError(f"ship takes modules, not {type(module).__name__} {module!r}")
        if module.__name__ == "__main__":
            raise ValueError("ship can't take __main__: what is in it goes by value anyway")
        files.update(_files(_outermost(module)))
    if not files:
        return b""
    import zipfile  # dear, and most pools ship nothing

    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as target:
        for name, data in files.items():
            target.writestr(name, data)
    if archive.tell() > ARCHIVE_LIMIT_BYTES:
        raise ValueError(
            f"the modules in ship have {archive.tell()} bytes when compressed, and "
            f"{ARCHIVE_LIMIT_BYTES} are allowed: install them on the hosts instead")
    return archive.getvalue()


def unpack(archive: bytes, folder: str) -> None:
    """Write what was packed into a folder, from which it can be imported; OSError if there is no
    room."""
    import zipfile

    with zipfile.ZipFile(io.BytesIO(archive)) as source:
        source.extractall(folder)


def names(archive: bytes) -> set[str]:
    """The modules and packages that were packed; of packages, and namespaces, the outermost."""
    import zipfile

    with zipfile.ZipFile(io.BytesIO(archive)) as source:
        return {re.split("[/.]", name, maxsplit=1)[0] for name in source.namelist()}


def is_whole(archive: bytes, folder: str) -> bool:
    """Return whether all files of what was packed are in the folder."""
    import zipfile

    with zipfile.ZipFile(io.BytesIO(archive)) as source:
        return all(os.path.exists(os.path.join(folder, name)) for name in source.namelist())


def _outermost(module: ModuleType) -> ModuleType:
    """The package with files that the module belongs to, or itself. A namespace package has none
    of its own, and may have other parts where it arrives."""
    parts = module.__name__.split(".")
    for end in range(1, len(parts)):
        package = sys.modules.get(".".join(parts[:end]))
        if getattr(package, "__file__", None):
            assert package is not None
            return package
    return module


def _files(module: ModuleType) -> Iterator[tuple[str, bytes]]:
    """Path below an entry of sys.path and content of each file."""
    path = module.__name__.replace(".", "/")
    if hasattr(module, "__path__"):
        from importlib import resources

        yield from _walk(path, resources.files(module))
        return
    spec = module.__spec__
    loader: Any = spec and spec.loader
    if spec is None or not spec.has_location or not spec.origin or not hasattr(loader, "get_data"):
        raise ValueError(
            f"module {module.__name__!r} has no file that could be shipped: "
            "if it was made at run time, cloudpickle.register_pickle_by_value() has it go by value")
    yield path + _suffix(spec.origin), loader.get_data(spec.origin)


def _walk(path: str, folder: Any) -> Iterator[tuple[str, bytes]]:
    for entry in folder.iterdir():
        inner = f"{path}/{entry.name}"
        if not entry.is_dir():
            yield inner, entry.read_bytes()
        elif entry.name != "__pycache__":
            yield from _walk(inner, entry)


def _suffix(origin: str) -> str:
    """By which an importer will know what kind of file it is."""
    suffixes = sorted(importlib.machinery.all_suffixes(), key=len, reverse=True)
    name = os.path.basename(origin)
    return next((suffix for suffix in suffixes if name.endswith(suffix)), ".py")
