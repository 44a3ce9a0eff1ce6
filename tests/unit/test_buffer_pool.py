"""Memory that is used again: who has it has it alone, and little is kept."""

import gc
import os
import random
import threading
from pathlib import Path

import numpy as np
import pytest

from distex._core.buffer_pool import Block

MB = 1 << 20
KEPT = min(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 16, 1024 * MB)


@pytest.fixture(autouse=True)
def nothing_is_kept():
    """But for a block that takes the place of all others, and that no test asks for."""
    gc.collect()  # other tests may have left blocks, which would take its place
    Block(KEPT)


def address(block):
    return np.frombuffer(block, np.uint8).ctypes.data


def mapped():
    """Bytes of address space of this process."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * 4096


def test_it_is_a_writable_buffer_of_that_size():
    block = Block(5 * MB + 3)
    view = memoryview(block)
    assert len(block) == view.nbytes == 5 * MB + 3
    view[0], view[-1] = 1, 2
    assert (block_bytes := bytes(block))[0] == 1 and block_bytes[-1] == 2


@pytest.mark.parametrize("size", [4 * MB, 4 * MB + 1, 64 * MB - 7])
def test_what_was_dropped_is_used_again(size):
    block = Block(size)
    first = address(block)
    del block
    assert address(Block(size)) == first
    assert address(Block(size - 5)) == first


def test_what_is_in_use_is_not():
    block = Block(8 * MB)
    array = np.frombuffer(block, np.uint8)
    array[:] = 7
    del block  # the array still has it
    others = [Block(8 * MB) for _ in range(20)]
    for other in others:
        np.frombuffer(other, np.uint8)[:] = 9
    assert (array == 7).all()


def test_a_small_one_does_not_take_a_large_one():
    first = address(Block(64 * MB))
    assert address(Block(8 * MB)) != first
    assert address(Block(64 * MB)) == first


def test_little_is_kept():
    before = mapped() - KEPT
    blocks = [Block(random.choice([64, 128, 256]) * MB) for _ in range(40)]
    del blocks
    assert mapped() - before <= KEPT + 17 * 4 * MB
    Block(2 * KEPT)
    assert mapped() - before <= KEPT + 17 * 4 * MB
    last = address(Block(KEPT // 2))  # what was kept before gives way
    assert address(Block(KEPT // 2)) == last


def test_too_much():
    with pytest.raises(MemoryError):
        Block(1 << 60)


def test_many_threads():
    def use(number):
        for _ in range(300):
            block = Block(4 * MB + number)
            array = np.frombuffer(block, np.uint8)
            array[::4096] = number
            if not (array[::4096] == number).all():
                wrong.append(number)

    wrong = []
    threads = [threading.Thread(target=use, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
