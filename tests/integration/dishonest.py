"""Tasks that have their worker deceive the pool, or flee from it. Imported by the workers."""

import ctypes
import gc
import os
import time
from pathlib import Path

from distex.worker.process import Worker
from distex.worker.status_page import ITEM, STARTED

from . import tasks

PR_SET_PDEATHSIG = 1


def own_page():
    return next(thing for thing in gc.get_objects() if type(thing) is Worker).shared_page


def note_and_die(number, places):
    """Write this number to these places of the status page, and end the worker."""
    page = own_page()
    for place in places:
        page[place] = number
    os._exit(7)


def note_item_and_die(item, number):
    if item == 3:
        note_and_die(number, [ITEM])
    return item


def deny_and_die(folder):
    """As if it had never been started."""
    tasks.mark(folder)
    note_and_die(0, [STARTED])


def pages():
    """Sizes of the memory that is shared with other processes and has no name."""
    sizes = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.endswith("/dev/zero (deleted)"):
            start, end = (int(address, 16) for address in line.split()[0].split("-"))
            sizes.append(end - start)
    return sizes


def leave_group(folder):
    """Join the nanny's process group, and outlive the nanny."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, 0, 0, 0, 0)
    os.setpgid(0, os.getpgid(os.getppid()))
    tasks.mark(folder, f"pid{os.getpid()}")
    time.sleep(60)
