"""What the tests have the workers do. Imported by the workers from here."""

import os
import time
from pathlib import Path


def double(x):
    return 2 * x


def give_back(x):
    return x


def wait_for(path, value=None):
    """Say that it runs, and wait until there is something at the path."""
    Path(f"{path}-{os.getpid()}").touch()
    while not os.path.exists(path):
        time.sleep(0.005)
    return value


def fail():
    raise RuntimeError("this host will not do")


def fail_if_unfit():
    if "UNFIT" in os.environ:
        fail()


def fail_while_there(path):
    if os.path.exists(path):
        fail()


def runs(path):
    """How many workers run wait_for() with this path, or have."""
    return len(list(Path(path).parent.glob(f"{Path(path).name}-*")))
