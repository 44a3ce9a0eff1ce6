"""Lists of results -> results one by one."""

import asyncio
import gc
import weakref

import pytest

from distex._core.result_iterator import AsyncResultIterator, ResultIterator

VALUES = [1, 2, 3, None, (), (1, 2), ValueError("as a value"), StopIteration(4)]


def lists():
    """Fresh ones: they are emptied."""
    return [VALUES[:2], [], VALUES[2:3], VALUES[3:]]


class Thing:
    """Something that can be referred to weakly."""


def generator(closed):
    try:
        yield from lists()
    finally:
        closed.append(True)


async def async_generator(closed, pause=False):
    try:
        for values in lists():
            if pause:
                await asyncio.sleep(0)
            yield values
    finally:
        closed.append(True)


def test_all_values_come_in_order():
    closed = []
    assert list(ResultIterator(generator(closed))) == VALUES
    assert closed


@pytest.mark.parametrize("pause", [True, False])
def test_all_values_come_in_order_asynchronously(loop, pause):
    async def main():
        closed = []
        values = [value async for value in AsyncResultIterator(async_generator(closed, pause))]
        by_hand = AsyncResultIterator(async_generator(closed, pause))
        assert [await anext(by_hand) for _ in VALUES] == values == VALUES
        with pytest.raises(StopAsyncIteration):
            await anext(by_hand)
        assert closed == [True, True]

    loop.run(main())


def test_closing_early_ends_the_generator():
    closed = []
    flat = ResultIterator(generator(closed))
    assert next(flat) == 1
    flat.close()
    assert closed
    assert list(flat) == []


def test_closing_early_ends_the_asynchronous_generator(loop):
    async def main():
        closed = []
        flat = AsyncResultIterator(async_generator(closed))
        assert await anext(flat) == 1
        await flat.aclose()
        assert closed
        assert [value async for value in flat] == []

    loop.run(main())


def test_an_exception_comes_behind_the_values_before_it():
    def failing():
        yield [1, 2]
        raise LookupError

    flat = ResultIterator(failing())
    assert [next(flat), next(flat)] == [1, 2]
    with pytest.raises(LookupError):
        next(flat)
    assert list(flat) == []


def test_what_was_taken_is_not_kept():
    things = [Thing(), Thing()]
    references = [weakref.ref(thing) for thing in things]
    flat = ResultIterator(iter([things]))
    del things
    taken = next(flat)
    del taken
    gc.collect()
    assert references[0]() is None
    assert references[1]() is not None


def test_what_was_taken_asynchronously_is_not_kept(loop):
    async def main():
        things = [Thing(), Thing(), Thing()]
        references = [weakref.ref(thing) for thing in things]

        async def all_at_once(lists):
            yield lists.pop()

        flat = AsyncResultIterator(all_at_once([things]))
        del things
        for reference in references:
            taken = await anext(flat)
            assert reference() is taken
            del taken
            gc.collect()
            assert reference() is None

    loop.run(main())


def test_each_value_comes_in_an_exception_of_its_own(loop):
    """Also for those who keep it: the interpreter itself drops it at once, and it is used again."""
    async def main():
        flat = AsyncResultIterator(async_generator([]))
        for value in VALUES[:4]:
            assert await anext(flat) == value
        caught = []
        for _ in VALUES[4:]:
            with pytest.raises(StopIteration) as info:
                next(anext(flat).__await__())
            caught.append(info.value)
        assert [stop.value for stop in caught] == VALUES[4:]
        assert len(set(map(id, caught))) == len(caught)

    loop.run(main())


def test_what_is_there_can_be_awaited_by_any_means(loop):
    async def main():
        flat = AsyncResultIterator(async_generator([]))
        assert await anext(flat) == 1
        assert await asyncio.wait_for(anext(flat), 10) == 2
        assert await anext(flat) == 3
        assert await asyncio.wait_for(anext(flat), 10) is None
        assert await asyncio.gather(anext(flat)) == [()]
        assert await anext(flat) == (1, 2)

    loop.run(main())
