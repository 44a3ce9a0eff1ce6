"""The modules that a pool ships (see wire/modules.py), where the workers of a nanny find them.

    ~/.cache/distex/modules-<random>/lock     held as long as the nanny lives
                                     /files/  at the end of sys.path

Workers import from there at any time, so nobody else may be able to write there, nor to make the
folder anew when it was cleaned away: in /tmp others could. What nannies have left that were killed
has a lock that nobody holds, and is removed by the next one.
"""

import contextlib
import importlib.machinery
import os
import shutil
import stat
import sys
import tempfile
from typing import Any

from distex import machine
from distex.errors import DistexError
from distex.wire import modules

PREFIX = "modules-"


class ShippedModules:
    """What one pool has shipped.

    Args:
        archive: from modules.pack().
        first: whether they come before what is installed here under the same names.

    Raises:
        DistexError: there is no room for them.
    """

    def __init__(self, archive: bytes, first: bool) -> None:
        self._archive = archive
        self._finder = Finder(modules.names(archive)) if first else None
        self._folder = ""
        self._lock = -1
        self._unpack()
        if self._finder is not None:
            sys.meta_path.insert(0, self._finder)

    def see_to_them(self) -> None:
        """Unpack them again if some are missing: the system may clean folders."""
        if not modules.is_whole(self._archive, self._files):
            self._take_away()
            self._unpack()

    @property
    def _files(self) -> str:
        return os.path.join(self._folder, "files")

    def _unpack(self) -> None:
        try:
            self._folder, self._lock = _locked_folder()
            os.mkdir(self._files)
            modules.unpack(self._archive, self._files)
        except OSError as exc:
            self._take_away()
            raise DistexError(f"there is no room for the modules in Pool(ship=...): {exc}") from exc
        sys.path.append(self._files)
        if self._finder is not None:
            self._finder.folder = self._files

    def _take_away(self) -> None:
        with contextlib.suppress(ValueError):
            sys.path.remove(self._files)
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)
        if self._lock >= 0:
            os.close(self._lock)
        self._folder, self._lock = "", -1

    def remove(self) -> None:
        """Remove them from the disk, and from the path."""
        self._take_away()
        if self._finder is not None:
            sys.meta_path.remove(self._finder)


class Finder:
    """Finds modules of these names in a folder first, and no others."""

    def __init__(self, names: set[str]) -> None:
        self._names = names
        self.folder = ""

    def find_spec(
        self, name: str, path: Any = None, target: Any = None
    ) -> importlib.machinery.ModuleSpec | None:
        """See importlib.abc.MetaPathFinder."""
        if name not in self._names or not self.folder:
            return None
        # a namespace package may have parts elsewhere
        return importlib.machinery.PathFinder.find_spec(name, [self.folder, *sys.path], target)


def _locked_folder() -> tuple[str, int]:
    """A new folder that only this user can enter or make, and the descriptor of its lock."""
    base = _base()
    _remove_left(base)
    while True:
        folder = tempfile.mkdtemp(prefix=PREFIX, dir=base)
        try:
            lock = os.open(os.path.join(folder, "lock"), os.O_RDWR | os.O_CREAT, 0o600)
        except OSError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        try:
            _take_lock(lock)
        except BlockingIOError:  # another nanny takes it for one that was left
            os.close(lock)
            continue
        except OSError:  # a file system without locks: what is left there stays
            pass
        if os.fstat(lock).st_nlink:  # else it was quicker
            return folder, lock
        os.close(lock)


def _base() -> str:
    """A folder in which only this user can make anything.

    Raises:
        OSError: there is none, and none can be made.
    """
    reasons = []
    places = [os.environ.get("XDG_CACHE_HOME", ""), os.path.expanduser("~/.cache"),
              os.environ.get("XDG_RUNTIME_DIR", "")]
    for place in filter(os.path.isabs, places):
        base = os.path.join(place, "distex")
        try:
            os.makedirs(base, mode=0o700, exist_ok=True)
            found = os.lstat(base)
            if (stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
                    and not found.st_mode & 0o022 and not machine.folder_of_others(base)):
                return base
            reasons.append(f"others can write there, or above: {base}")
        except OSError as exc:
            reasons.append(str(exc))
    raise OSError("no folder is this user's alone; have XDG_CACHE_HOME name one "
                  f"({'; '.join(reasons) or 'there is no home directory'})")


def _remove_left(base: str) -> None:
    """Remove what nannies left that were killed."""
    with contextlib.suppress(OSError):
        for name in os.listdir(base):
            folder = os.path.join(base, name)
            with contextlib.suppress(OSError):
                lock = os.open(os.path.join(folder, "lock"), os.O_RDWR)
                try:
                    _take_lock(lock)
                    shutil.rmtree(folder, ignore_errors=True)
                finally:
                    os.close(lock)


def _take_lock(fd: int) -> None:
    """OSError: somebody has it."""
    import fcntl

    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
