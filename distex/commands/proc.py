"""``distex_proc``, and ``python -m distex`` without a command: check the installation."""

import sys

from distex._version import __version__
from distex.worker.process import preload


def main() -> None:
    """Say that distex works here. With ``--executable`` print only which Python runs it."""
    if sys.argv[1:] == ["--executable"]:
        print(sys.executable)
        return
    preload(None)
    print(f"distex {__version__} is installed and works, "
          f"with Python {sys.version.split()[0]} at {sys.executable}")
