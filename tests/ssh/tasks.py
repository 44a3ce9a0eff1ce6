"""What the tests have workers do, which import it from their working directory."""

import asyncio


def double(x):
    return 2 * x


def fail(x):
    raise LookupError(f"nothing for {x}")


async def async_double(x):
    await asyncio.sleep(0)
    return 2 * x
