"""Initializers that fail, each in its way, as long as a file is there. Light to import in workers."""

import asyncio
import os
import signal
import sys
import time


def raise_in(trouble):
    if os.path.exists(trouble):
        raise ConnectionError("the database is away")


async def raise_in_coroutine(trouble):
    await asyncio.sleep(0)
    raise_in(trouble)


def exit_in(trouble):
    if os.path.exists(trouble):
        sys.exit("the database is away")


def leave_in(trouble):
    if os.path.exists(trouble):
        os._exit(3)


def die_in(trouble):
    if os.path.exists(trouble):
        os.kill(os.getpid(), signal.SIGKILL)


def hang_in(trouble):
    while os.path.exists(trouble):
        time.sleep(0.01)


async def hang_in_coroutine(trouble):
    while os.path.exists(trouble):  # noqa: ASYNC240
        await asyncio.sleep(0.01)
