"""The end of an event loop: who has asked it for something, from another thread, hears of it."""

import asyncio
import concurrent.futures
import contextlib

import pytest
import uvloop

from distex._core.inbox import Inbox
from distex.client.loop_thread import LoopThread


class Loop(asyncio.SelectorEventLoop):
    """Calls something when it does no more but is not closed yet."""

    at_last = None

    def close(self):
        if self.at_last is not None:
            self.at_last()
        super().close()


async def wait_for_ever():
    await asyncio.get_running_loop().create_future()


@pytest.fixture(params=[uvloop.new_event_loop, asyncio.SelectorEventLoop])
def thread(request):
    thread = LoopThread(request.param)
    yield thread
    thread.stop()


def test_a_coroutine_that_waits_when_the_loop_ends_is_cancelled(thread):
    waiting = thread.submit(wait_for_ever())
    thread.submit(asyncio.sleep(0)).result()
    thread.stop()
    with pytest.raises(concurrent.futures.CancelledError):
        waiting.result(0)


def test_a_coroutine_that_is_about_to_end_comes_to_its_end(thread):
    ending = thread.submit(asyncio.sleep(0.01, "the end"))
    thread.submit(asyncio.sleep(0)).result()
    thread.stop()
    assert ending.result(0) == "the end"


def test_one_that_will_not_be_cancelled_does_not_keep_who_waits_for_it(thread):
    async def go_on():
        asyncio.current_task()._log_destroy_pending = False
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await wait_for_ever()

    waiting = thread.submit(go_on())
    thread.submit(asyncio.sleep(0)).result()
    thread.stop()
    with pytest.raises(RuntimeError, match="is closed"):
        waiting.result(0)


def test_a_coroutine_that_comes_at_the_last_moment_is_refused():
    thread = LoopThread(Loop)
    late = []
    thread.loop.at_last = lambda: late.append(thread.submit(wait_for_ever()))
    thread.stop()
    with pytest.raises(RuntimeError, match="is closed"):
        late[0].result(0)
    with pytest.raises(RuntimeError, match="is closed"):
        thread.submit(wait_for_ever())


def test_what_is_put_into_an_inbox_at_the_last_moment_is_handled_all_the_same():
    loop = Loop()
    handled = []
    inbox = Inbox(loop, handled.append)
    loop.at_last = lambda: inbox.put("late")
    loop.close()
    assert handled == []
    inbox.close()
    inbox.put("later")
    assert handled == ["late", "later"]


def test_an_inbox_whose_loop_is_closed_says_so_each_time():
    loop = Loop()
    inbox = Inbox(loop, print)
    loop.close()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="is closed"):
            inbox.put(1)
