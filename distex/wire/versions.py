"""Compare versions of packages on both sides: cloudpickle and dill.

A pickle of cloudpickle's or dill's is a call of the package's own private functions. Those of
cloudpickle have stayed the same within a minor version; dill gets new ones in each release.
MessagePack is a standard, whichever msgspec writes it, and pickle comes with Python, whose minor
version has to be the same for the sake of the bytecode.
"""

import importlib
import sys

from distex.errors import HostError
from distex.options import PickleType

_DIGITS = {"cloudpickle": 2, "dill": 4}  # of the version, which have to be the same


def needed(*kinds: int) -> dict[str, str]:
    """Names and versions of such packages, as they are here, for serializers of these PickleTypes.
    cloudpickle is always among them: it helps out where the others can't."""
    names = ["cloudpickle", *(["dill"] if PickleType.dill in kinds else [])]
    return {name: importlib.import_module(name).__version__ for name in names}


def check(there: dict[str, str]) -> None:
    """Compare with what the other side has needed().

    Raises:
        HostError: what was found here, what is needed, and what to do.
    """
    for name, version in there.items():
        found, why = "", ""
        try:
            found = importlib.import_module(name).__version__
        except ImportError as exc:
            why = f" ({exc})"
        problem = mismatch(name, found, version)
        if problem:
            raise HostError(f"{problem}{why}\nTo mend it, there: "
                            f"{sys.executable} -m pip install {name}=={version}")


def mismatch(name: str, found: str, needed: str) -> str:
    """Why two versions of a package don't go together; empty if they do.

    Args:
        name: of the package.
        found: the version on the remote side; empty: it is not there.
        needed: the version on the pool's side.
    """
    digits = _DIGITS[name]
    if found and found.split(".")[:digits] == needed.split(".")[:digits]:
        return ""
    what = f"{name} {found}" if found else f"no {name}"
    return f"found {what}, and {name} {needed} is needed, as here"
