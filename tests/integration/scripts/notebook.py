"""A notebook that is run in a Jupyter kernel: its cells use a pool, and one is interrupted.

tests/integration/test_notebook.py runs it, with the kind of event loop as its argument. It prints
what the cells print. Some cells are interrupted once they have printed something.
"""

import asyncio
import sys

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

CELLS = [
    """
import asyncio, threading, time
from distex import LoopType, Pool
cache = {}
X = 1
class Job:
    def __init__(self, n): self.n = n
    def version(self): return 1
def fill(key):
    known = key in cache
    cache[key] = X
    return known
def make(n): return Job(n)
def tell():
    while pool.workers()[0].state != "busy": time.sleep(0.01)
    print("begun", flush=True)
async def tick():  # the kernel's handler of the signal does not wake the loop
    while True: await asyncio.sleep(0.05)
pool = Pool(1, worker_loop=LoopType.KIND)
print("in a cell", pool.run(fill, 1), pool.run(fill, 1), type(pool.run(make, 3)) is Job)
""", """
old = make(1)
class Job(Job):
    def version(self): return 2
print("a class again", pool.run(make, 3).version(), pool.run(lambda job: job.version(), old))
""", """
def make(n): return n + X
print("a function again", pool.run(make, 3))
X = 2
print("a global again", pool.run(make, 3))
""", """
print("at top level", await pool.run_async(make, 4), [x async for x in pool.map_async(make, range(3))])
async with Pool(1, worker_loop=LoopType.KIND) as other:
    print("another", await other.run_async(make, 5))
""", """# interrupted
threading.Thread(target=tell).start()
pool.options(cancel_running="interrupt").run(time.sleep, 1000)
""", """# interrupted
threading.Thread(target=tell).start()
ticking = asyncio.ensure_future(tick())
await pool.run_async(asyncio.sleep, 1000)
""", """
ticking.cancel()
%time _ = pool.run(make, 3)
print("by a magic", _)
""", """
pool.kill()
with Pool(1, worker_loop=LoopType.KIND) as pool:
    print("a new pool", pool.run(make, 3))
""",
]


class Client(NotebookClient):
    """Prints what cells print, as it comes; interrupts those that say so in their first line."""

    def process_message(self, message, cell, index):
        super().process_message(message, cell, index)
        if message["msg_type"] == "stream":
            print(message["content"]["text"], end="", flush=True)
            if cell.source.startswith("# interrupted"):
                self.interrupting = asyncio.ensure_future(self.km.interrupt_kernel())


async def main(kind):
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [
        nbformat.v4.new_code_cell(source.strip().replace("KIND", kind)) for source in CELLS]
    client = Client(notebook, timeout=40, kernel_name="python3")
    async with client.async_setup_kernel():
        for index, cell in enumerate(notebook.cells):
            try:
                await client.async_execute_cell(cell, index)
            except CellExecutionError as exc:
                print(exc.ename)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
