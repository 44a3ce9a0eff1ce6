"""What the nanny does about a task that is not wanted any more, by what its worker has noted."""

import os
import time
from types import SimpleNamespace

import pytest

from distex.worker.interrupts import Interrupt
from distex.worker.status_page import FINISHED, RUNNING, STARTED, UNWANTED, StatusPages

THIS = 5


def look(**notes):
    """Whether the worker was told, and whether it is to be looked at again."""
    page = StatusPages().take()
    for name, task in notes.items():
        page[{"started": STARTED, "finished": FINISHED, "running": RUNNING}[name]] = task
    child = SimpleNamespace(pid=os.getpid(), page=page, revoked=False)  # SIGURG does nothing here
    again = Interrupt(child, THIS, grace=60).act(time.monotonic())
    return page[UNWANTED] == THIS, again is not None


@pytest.mark.parametrize(("notes", "told", "again"), [
    ({"started": THIS, "running": THIS}, True, True),
    ({"started": THIS}, True, True),  # its arguments are being read
    ({"started": 4}, False, True),  # it may still begin
    ({"started": THIS, "finished": THIS}, False, False),
    ({"started": 6, "running": 6}, False, False),
    # a chunk, which has waited for a coroutine
    ({"started": 6, "finished": 6, "running": THIS}, True, True),
], ids=["runs", "is read", "waits", "is done", "was done before", "goes on behind another"])
def test_what_runs_is_told_and_what_is_done_is_left_alone(notes, told, again):
    assert look(**notes) == (told, again)
