"""A script with state: what tasks do to it stays in their worker, until the script changes it.

Run by tests/integration/test_script.py, with the kind of event loop as its argument. Each check is
made through run, submit, map and run_async; it prints what went wrong.
"""

import asyncio
import sys

from helpers import make_reader

from distex import LoopType, Pool

cache = {}
items = []
seen = []
X = 1
model = None


class Job:
    count = 0
    limit = 1

    def finish(self):
        Job.count += 1
        seen.append(self)


class Special(Job):
    pass


def special_limit():
    return Special.limit


def hit(key):
    known = key in cache
    cache[key] = 1
    return known


def append():
    items.append(0)
    return len(items)


def get_x():
    return X


def ten_x():
    return 10 * X


def work():
    Job.count = 77
    return Job()


def limit():
    return Job.limit


def own_limit():
    return own_limit.limit


counted = items.count
content = [1]
read_content = make_reader(content)


def count_zeros():
    return counted(0)


def read():
    return read_content()


def with_default(x=[1]):  # noqa: B006
    return len(x)


def load():
    global model
    model = "loaded"


def use_model():
    return model


def make(value):
    return value()


def is_job(value):
    return type(value) is Job


def give(value):
    return value


def check(what, found, expected):
    if found != expected:
        print(f"{what}: {found!r}, not {expected!r}", flush=True)


def ways(pool):
    async def awaited(func, *args):
        return await pool.run_async(func, *args)

    yield "run", pool.run
    yield "submit", lambda func, *args: pool.submit(func, *args).result()
    yield "map", lambda func, *args: next(pool.map(func, [args], star=True))
    yield "run_async", lambda func, *args: asyncio.run(awaited(func, *args))


def redefine(source):
    """As a cell of a notebook does."""
    exec(source, globals())


def check_all(pool, way, call):
    global X
    cache.clear()
    check(f"{way}: a filled dict", [call(hit, way), call(hit, way)], [False, True])
    check(f"{way}: and here", cache, {})
    cache["x"] = 1
    check(f"{way}: it has changed here", [call(hit, way), call(hit, "x")], [False, True])
    items[:] = [1] * len(way)
    found = [call(append), call(append)]
    items.append(1)
    check(f"{way}: a list", [*found, call(append)], [len(way) + 1, len(way) + 2, len(way) + 2])

    X = 1
    found = [call(get_x)]
    X = 2
    found.append(call(ten_x))
    X = 1
    found += [call(get_x), call(lambda: X), call(make, get_x)]
    check(f"{way}: a global that is toggled", found, [1, 20, 1, 1, 1])
    del X
    try:
        found = call(get_x)
    except NameError:
        found = "NameError"
    X = 1
    check(f"{way}: a global that is deleted", [found, call(get_x)], ["NameError", 1])

    Job.count = 0
    seen.clear()
    result = call(work)
    check(f"{way}: a result is of the class here", type(result) is Job, True)
    check(f"{way}: and does not change it", Job.count, 0)
    result.finish()
    check(f"{way}: its methods work here", (Job.count, len(seen), seen[0] is result),
          (1, 1, True))
    call(work)
    check(f"{way}: another result does not either", (Job.count, Job.limit), (1, 1))
    check(f"{way}: an instance is of the class there", call(is_job, Job()), True)

    Job.limit = 5
    found = [call(limit)]
    Job.limit = 1
    check(f"{way}: an attribute of a class", [*found, call(limit)], [5, 1])
    own_limit.limit = 3
    found = [call(own_limit)]
    own_limit.limit = 4
    check(f"{way}: an attribute of a function", [*found, call(own_limit)], [3, 4])
    found = [call(with_default)]
    with_default.__defaults__[0].append(2)
    check(f"{way}: a default that grows", call(with_default), found[0] + 1)

    items[:] = [0]
    found = [call(count_zeros)]
    items.append(0)
    check(f"{way}: a method of a list", [*found, call(count_zeros)], [1, 2])
    content[:] = [1]
    found = [call(read)]
    content.append(2)
    check(f"{way}: a closure made by a module", [*found, call(read)], [[1], [1, 2]])

    redefine("def again(): return 1")
    found = [call(globals()["again"])]
    redefine("def again(): return 2")
    check(f"{way}: a function that is redefined", [*found, call(globals()["again"])], [1, 2])
    redefine("class Cell:\n    def version(self): return 1\ndef make_cell(): return Cell()")
    old = globals()["Cell"]
    first = call(globals()["make_cell"])
    redefine("class Cell:\n    def version(self): return 2")
    second = call(globals()["make_cell"])
    check(f"{way}: a class that is redefined",
          [first.version(), second.version(), type(first) is old, type(second) is old],
          [1, 2, True, False])
    check(f"{way}: an instance of the old class", call(give, first).version(), 1)
    found = []
    for version in 1, 2:  # as a cell that is run again
        redefine(f"class Cell:\n    def version(self): return {version}\ncell = Cell()\n"
                 "def cell_version(): return cell.version()")
        found.append(call(globals()["cell_version"]))
    check(f"{way}: an instance that is made again, of a class that is redefined", found, [1, 2])
    Special.limit = 5
    found = [call(special_limit)]
    del Special.limit
    check(f"{way}: a class attribute that is deleted", [*found, call(special_limit)], [5, 1])


def main():
    kind = LoopType[sys.argv[1]]
    for workers in 1, 2:
        with Pool(workers, worker_loop=kind, initializer=load) as pool:
            check("set by an initializer", pool.run(use_model), "loaded")
            if workers == 1:
                for way, call in ways(pool):
                    check_all(pool, way, call)
            for x in range(20):  # each worker goes by what is here now
                globals()["X"] = x
                check("toggled, many workers", list(pool.map(lambda _: X, range(8))), [x] * 8)
                check("toggled, many workers", pool.run_on_all(get_x), [x] * workers)
            check("still set by an initializer", pool.run_on_all(use_model), ["loaded"] * workers)
    print("done")


if __name__ == "__main__":
    main()
