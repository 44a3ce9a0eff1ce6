"""Objects of multiprocessing as arguments: managers' proxies work, connections are refused.

    caller: authkey() ──Configure──> worker: use_authkey(), for proxies that it unpickles
"""

import copyreg
import importlib.util
import sys
from importlib.machinery import ModuleSpec
from typing import Any

_PROCESS = "multiprocessing.process"


def authkey() -> bytes:
    """Return the key by which this process's managers know their proxies."""
    from multiprocessing.process import current_process

    return bytes(current_process().authkey)


def use_authkey(key: bytes) -> None:
    """Have proxies that are unpickled here show this key, whenever multiprocessing is imported."""
    process: Any = sys.modules.get(_PROCESS)
    if process is not None:
        process.current_process().authkey = key
    else:
        sys.meta_path.insert(0, _Finder(key))


class _Finder:
    """Sets the key once multiprocessing is imported, which takes too long to do it for each worker.

    Args:
        key: as from authkey().
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """See importlib.abc.MetaPathFinder."""
        if name != _PROCESS:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None
        loader: Any = spec.loader
        execute = loader.exec_module

        def execute_and_set(module: Any) -> None:
            execute(module)
            module.current_process().authkey = self._key

        loader.exec_module = execute_and_set
        return spec


def refuse_connections() -> None:
    """Have pickle refuse connections, if there may be any: it would send the number of a file,
    which is another file in a worker."""
    connection: Any = sys.modules.get("multiprocessing.connection")
    if connection is not None and connection.Connection not in copyreg.dispatch_table:
        copyreg.pickle(connection.Connection, _refuse)


def _refuse(connection: Any) -> Any:
    raise TypeError(
        f"{type(connection).__module__}.{type(connection).__qualname__} can't be sent to a worker, "
        "which has files of its own: pass a queue of multiprocessing.Manager(), or an address to "
        "connect to")
