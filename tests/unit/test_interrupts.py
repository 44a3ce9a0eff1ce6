"""What the nanny does about a task that is not wanted any more, by what its worker has noted."""

import os
import time
from types import SimpleNamespace

import pytest

from distex.worker.interrupts import BLOCK_TIME, Interrupt
from distex.worker.status_page import (
    CANCELS,
    FINISHED,
    RUNNING,
    STARTED,
    STEPPING,
    UNWANTED,
    StatusPages,
)

THIS = 5
PLACES = {"started": STARTED, "finished": FINISHED, "running": RUNNING, "stepping": STEPPING}


def look(*, told=False, age=0.0, grace=60.0, **notes):
    """Whether the worker was interrupted, and whether it is to be looked at again.

    Args:
        told: whether the worker has read of the cancellation.
        age: seconds since it was asked for.
    """
    page = StatusPages().take()
    for name, task in notes.items():
        page[PLACES[name]] = task
    page[CANCELS] = 3 if told else 2
    child = SimpleNamespace(pid=os.getpid(), page=page, revoked=False)  # SIGURG does nothing here
    again = Interrupt(child, THIS, grace, cancels=3).act(time.monotonic() + age)
    return page[UNWANTED] == THIS, again is not None


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("notes", [
    {"started": THIS, "running": THIS},
    {"started": THIS},  # its arguments are being read
    # a chunk, which has waited for a coroutine
    {"started": 6, "finished": 6, "running": THIS},
], ids=["runs", "is read", "goes on behind another"])
def test_what_runs_is_interrupted(notes, told):
    assert look(told=told, **notes) == (True, True)


@pytest.mark.parametrize("notes", [
    {"started": 4},
    {"started": THIS, "finished": THIS},
    {"started": 6, "running": 6},
    {"started": 6, "finished": THIS, "stepping": 6},
], ids=["waits", "is done", "was done before", "is a coroutine beside another"])
@pytest.mark.parametrize("age", [0, 60])
def test_what_does_not_run_is_left_alone_once_the_worker_has_read_that_it_is_cancelled(notes, age):
    assert look(told=True, age=age, **notes) == (False, False)
    assert look(told=False, age=age, **notes) == (False, True)


@pytest.mark.parametrize(("told", "age", "interrupted"), [
    (False, 0, False), (False, 2 * BLOCK_TIME, True), (True, 2 * BLOCK_TIME, False)])
def test_a_coroutine_that_runs_is_interrupted_if_its_loop_does_not_come_to_cancel_it(
        told, age, interrupted):
    notes = {"started": 6, "finished": 6, "stepping": THIS}
    assert look(told=told, age=age, **notes) == (interrupted, not told)
