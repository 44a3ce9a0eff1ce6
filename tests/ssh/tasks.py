"""What the tests have workers do, which import it from their working directory.

It imports little: where there are a thousand workers, each of them has to.
"""

import asyncio
import os
import time


def double(x):
    return 2 * x


def fail(x):
    raise LookupError(f"nothing for {x}")


async def async_double(x):
    await asyncio.sleep(0)
    return 2 * x


def address():
    """Of the host on which the worker runs."""
    return os.environ["SSH_CONNECTION"].split()[2]


def note_and_wait(folder, k):
    """Note that the task runs, and on which host; and be slow."""
    with open(f"{folder}/{os.getpid()}", "a") as log:
        log.write(f"{k} {address()}\n")
    time.sleep(0.2)
    return k
