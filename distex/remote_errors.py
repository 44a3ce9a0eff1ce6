"""How a task's exception travels: as itself, with the worker's traceback as its cause.

    worker: dump_exception ──(description, traceback, pickle)──> caller: load_exception
"""

import contextlib
import pickle
import traceback
from collections.abc import Callable
from typing import Any

from distex.errors import RemoteException


class RemoteTraceback(Exception):
    """The cause of an exception that comes from a worker: the traceback there, as text."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return self.text


def annotate(exc: BaseException, note: str) -> None:
    """Add a note to an exception, if it takes one."""
    with contextlib.suppress(BaseException):  # its class may have other ideas
        exc.add_note(note)


def _describe(exc: BaseException) -> str:
    """Type and text, whatever the exception's own methods do."""
    try:
        return traceback.format_exception_only(exc)[-1].strip()
    except BaseException:
        return f"{type(exc).__name__} (it fails to describe itself)"


def _format(exc: BaseException) -> str:
    """The traceback from the task's own first frame on."""
    tb = vars(BaseException)["__traceback__"].__get__(exc)
    while tb is not None and tb.tb_frame.f_code.co_filename.endswith("_core/execute.pyx"):
        tb = tb.tb_next
    try:
        return "".join(traceback.format_exception(type(exc), exc, tb))
    except BaseException:
        return "".join(traceback.format_tb(tb)) + _describe(exc)


def dump_exception(
    exc: BaseException, dumps: Callable[[Any], bytes]
) -> tuple[str, str, bytes | None]:
    """What load_exception() makes the exception from again.

    Args:
        exc: the exception; anything that it is or refers to may fail to be pickled.
        dumps: the serializer.

    Returns:
        its description, its traceback as text, and itself pickled, or None if that failed.
    """
    pickled: bytes | None
    try:
        pickled = dumps(exc)
    except BaseException:
        pickled = None
    return _describe(exc), _format(exc), pickled


def _missing(module: str, where: object) -> str:
    """What to do where a worker has no such module."""
    from importlib.util import find_spec

    top = module.partition(".")[0]
    try:
        is_here = top != "__main__" and find_spec(top) is not None
    except (ImportError, ValueError):
        is_here = False
    install = f"{where} has no module {module!r}: install it there"
    return f"{install}, or send yours along with Pool(ship=[{top}])" if is_here else install


def load_exception(
    dumped: tuple[str, str, bytes | None], where: object, not_loaded: str | None = None,
    loads: Callable[[bytes], Any] = pickle.loads,
) -> BaseException:
    """The exception that a task raised, to be raised at the caller's.

    Args:
        dumped: as from dump_exception().
        where: the worker, for the text.
        not_loaded: name of the function if it was that which could not be unpickled.
        loads: the inverse of the serializer.
    """
    description, text, pickled = dumped
    text = f'\n"""\n{text}""" (on {where})'
    exc: object = None
    if pickled is not None:
        try:
            exc = loads(pickled)
        except BaseException as failure:
            description += f" (it can't be unpickled here: {_describe(failure)})"
    error = RemoteException(description, text)
    if issubclass(type(exc), BaseException):  # whatever it says itself of its class
        error = exc  # type: ignore[assignment]
        # not by an assignment, which a class may refuse: a frozen dataclass, say
        vars(BaseException)["__cause__"].__set__(error, RemoteTraceback(text))
    if issubclass(type(error), ModuleNotFoundError):
        module = vars(ImportError)["name"].__get__(error)
        if isinstance(module, str):
            annotate(error, _missing(module, where))
    if not_loaded is not None:
        annotate(error, f"raised while {not_loaded} was being loaded on {where}")
    return error
