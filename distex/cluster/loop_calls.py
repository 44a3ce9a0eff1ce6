"""Calls of the user's own functions on the pool's loop: whatever they raise, the pool goes on."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

logger = logging.getLogger("distex")


def call_on_loop(
    loop: asyncio.AbstractEventLoop, name: str, function: Callable[..., object], *args: Any
) -> None:
    """Call a function of the user, on the loop's thread.

    An exception is logged. One that ends programs is raised again from a callback of its own, where
    it interrupts nothing of the pool: a loop of the user's ends by it, as by any of its callbacks;
    the pool's own thread does not.

    Args:
        loop: the pool's.
        name: of the function, for the log.
        function: is called with the other arguments.
    """
    try:
        function(*args)
    except Exception:
        logger.exception("distex: %s failed", name)
    except BaseException as exc:
        logger.error("distex: %s raised %s", name, type(exc).__name__)
        loop.call_soon(_raise, exc)


def _raise(exc: BaseException) -> None:
    raise exc
