"""The pools, each behind the few calls that the measurements make, used as its manual tells.

Packages are imported when a pool is made: a child needs only those of its own peer.
"""

import asyncio
import contextlib
import inspect
from collections import deque
from collections.abc import Callable, Iterable
from time import perf_counter
from typing import Any, ClassVar

from bench import sshd


class Peer:
    """A pool used from synchronous code."""

    module: ClassVar[str]  # what its users import
    noisy: ClassVar[bool] = False  # uses CPU also when idle: closed while others are measured
    waits_ready: ClassVar[bool] = False  # making it waits until all its workers are there

    def __init__(self, workers: int) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """End the workers."""
        raise NotImplementedError

    def start(self, func: Callable[..., Any], *args: Any) -> Any:
        """One task; what is returned goes to wait()."""
        raise NotImplementedError(f"{type(self).__name__} has no single tasks")

    def wait(self, future: Any) -> Any:
        """The result."""
        return future.result()

    def call(self, func: Callable[..., Any], *args: Any) -> Any:
        """One task and its result."""
        return self.wait(self.start(func, *args))

    def map(
        self, func: Callable[..., Any], items: Iterable[Any], chunksize: int | None, ordered: bool
    ) -> Iterable[Any]:
        """Results for all items; chunksize None: the pool's default."""
        raise NotImplementedError(f"{type(self).__name__} has no map")

    # --- the loops that are timed

    def burst(self, func: Callable[..., Any], args: Iterable[Any], in_flight: int) -> None:
        """Single tasks, that many in flight: when the oldest is done, the next is sent."""
        start, wait = self.start, self.wait
        pending: deque[Any] = deque()
        for arg in args:
            if len(pending) == in_flight:
                wait(pending.popleft())
            pending.append(start(func, arg))
        while pending:
            wait(pending.popleft())

    def time_calls(
        self, func: Callable[..., Any], arg: Any, count: int, seconds: float
    ) -> list[float]:
        """How long each of count calls takes, one after the other; fewer if time is over."""
        call, taken = self.call, []
        end = perf_counter() + seconds
        while len(taken) < count and (start := perf_counter()) < end:
            call(func, arg)
            taken.append(perf_counter() - start)
        return taken

    def consume(
        self, func: Callable[..., Any], items: Iterable[Any], chunksize: int | None, ordered: bool
    ) -> None:
        """Go through a map."""
        for _ in self.map(func, items, chunksize, ordered):
            pass

    def results(
        self, func: Callable[..., Any], items: Iterable[Any], chunksize: int | None, ordered: bool
    ) -> list[Any]:
        """The results of a map."""
        return list(self.map(func, items, chunksize, ordered))


class AsyncPeer(Peer):
    """A pool used from coroutines, on uvloop. start() gives an awaitable that runs already."""

    def _run(self, coroutine: Any) -> Any:
        return self._runner.run(coroutine)

    def _make_loop(self) -> None:
        import uvloop

        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)

    def _map(
        self, func: Callable[..., Any], items: Iterable[Any], chunksize: int | None, ordered: bool
    ) -> Any:
        """An asynchronous iterator over the results."""
        raise NotImplementedError

    def call(self, func: Callable[..., Any], *args: Any) -> Any:
        async def call() -> Any:
            return await self.start(func, *args)

        return self._run(call())

    def burst(self, func: Callable[..., Any], args: Iterable[Any], in_flight: int) -> None:
        async def burst() -> None:
            start = self.start
            pending: deque[Any] = deque()
            for arg in args:
                if len(pending) == in_flight:
                    await pending.popleft()
                pending.append(start(func, arg))
            while pending:
                await pending.popleft()

        self._run(burst())

    def time_calls(
        self, func: Callable[..., Any], arg: Any, count: int, seconds: float
    ) -> list[float]:
        async def time_calls() -> list[float]:
            once, taken = self.once, []
            end = perf_counter() + seconds
            while len(taken) < count and (start := perf_counter()) < end:
                await once(func, arg)
                taken.append(perf_counter() - start)
            return taken

        return self._run(time_calls())

    def once(self, func: Callable[..., Any], *args: Any) -> Any:
        """An awaitable for one task, that need not be in flight before it is awaited."""
        return self.start(func, *args)

    def consume(
        self, func: Callable[..., Any], items: Iterable[Any], chunksize: int | None, ordered: bool
    ) -> None:
        async def consume() -> None:
            async for _ in self._map(func, items, chunksize, ordered):
                pass

        self._run(consume())

    def results(
        self, func: Callable[..., Any], items: Iterable[Any], chunksize: int | None, ordered: bool
    ) -> list[Any]:
        async def results() -> list[Any]:
            return [value async for value in self._map(func, items, chunksize, ordered)]

        return self._run(results())


# --- distex, this version


class Distex(Peer):
    """distex.Pool, its synchronous face."""

    module = "distex.pool"  # distex alone imports it when it is asked for Pool
    waits_ready = True

    def __init__(
        self, workers: int, asked: dict[str, Any] | None = None, **options: Any
    ) -> None:
        self.raw = self._pool = _new_pool(workers, options)
        calls = self._pool.options(**asked) if asked else self._pool
        self.start = calls.submit
        self.call = calls.run

    def map(
        self, func: Callable[..., Any], items: Iterable[Any], chunksize: int | None, ordered: bool
    ) -> Iterable[Any]:
        return self._pool.map(func, items, chunksize=chunksize, ordered=ordered)

    def close(self) -> None:
        self._pool.shutdown()


class DistexAsync(AsyncPeer):
    """distex.Pool, its asynchronous face."""

    module = "distex.pool"  # distex alone imports it when it is asked for Pool
    waits_ready = True

    def __init__(
        self, workers: int, asked: dict[str, Any] | None = None, **options: Any
    ) -> None:
        self._make_loop()

        async def make() -> Any:
            return await _new_pool(workers, options).__aenter__()

        self._pool = self._run(make())
        self.start = (self._pool.options(**asked) if asked else self._pool).run_async

    def _map(
        self, func: Callable[..., Any], items: Iterable[Any], chunksize: int | None, ordered: bool
    ) -> Any:
        return self._pool.map_async(func, items, chunksize=chunksize, ordered=ordered)

    def close(self) -> None:
        self._run(self._pool.shutdown_async())
        self._runner.close()


class DistexSshAsync(DistexAsync):
    """distex.Pool with all workers at the other end of an ssh connection, asynchronous."""

    def __init__(self, workers: int, remote: int = 0) -> None:
        import distex

        there = sshd.found()
        host = distex.HostSpec(f"{there['url']}/{remote or workers}", distex.SshOptions(
            client_keys=there["key"], known_hosts=there["known"], config=there["config"],
            python=there["python"]))
        super().__init__(0, hosts=host)


def _new_pool(workers: int, options: dict[str, Any]) -> Any:
    import distex

    if unknown := set(options) - set(inspect.signature(distex.Pool).parameters):
        raise NotImplementedError(f"this distex has no option {', '.join(unknown)}")
    return distex.Pool(workers, **options)


# --- distex 0.7.2, from PyPI


class Distex07Async(AsyncPeer):
    """distex 0.7.2, its asynchronous face."""

    module = "distex"
    waits_ready = True

    def __init__(self, workers: int, qsize: int = 2) -> None:
        self._make_loop()
        self._loop = self._runner.get_loop()
        asyncio.set_event_loop(self._loop)
        self._pool = self._make_pool(workers, qsize)
        self.once = self._pool.run_async

    def _make_pool(self, workers: int, qsize: int) -> Any:
        import distex

        return distex.Pool(workers, qsize=qsize)

    def start(self, func: Callable[..., Any], *args: Any) -> Any:
        return self._loop.create_task(self._pool.run_async(func, *args))

    def _map(
        self, func: Callable[..., Any], items: Iterable[Any], chunksize: int | None, ordered: bool
    ) -> Any:
        return self._pool.map_async(func, items, chunksize=chunksize or 1, ordered=ordered)

    def close(self) -> None:
        self._pool.shutdown()
        self._runner.close()


class Distex07SshAsync(Distex07Async):
    """distex 0.7.2 with all workers at the other end of OpenSSH."""

    def _make_pool(self, workers: int, qsize: int) -> Any:
        import distex

        host = f"{sshd.found()['url']}/{workers}"
        pool = distex.Pool(1, host, qsize=qsize, lazy_create=True)
        pool._num_workers = 0  # it takes an argument of 0 for one local worker a CPU
        self._run(pool.create())
        return pool


class Distex07(Distex07Async):
    """distex 0.7.2, its synchronous face; single tasks can't be had without a running loop."""

    def __init__(self, workers: int, qsize: int = 2) -> None:
        super().__init__(workers, qsize)
        self.call = self._pool.run

    def map(
        self, func: Callable[..., Any], items: Iterable[Any], chunksize: int | None, ordered: bool
    ) -> Iterable[Any]:
        return self._pool.map(func, items, chunksize=chunksize or 1, ordered=ordered)

    burst = Peer.burst

    def start(self, func: Callable[..., Any], *args: Any) -> Any:
        raise NotImplementedError("submit of distex 0.7.2 needs a running loop")

    time_calls = Peer.time_calls
    consume = Peer.consume
    results = Peer.results


# --- the standard library


class MultiprocessingPool(Peer):
    """multiprocessing.Pool."""

    module = "multiprocessing.pool"

    def __init__(self, workers: int) -> None:
        import multiprocessing

        self._pool = multiprocessing.Pool(workers)

    def start(self, func: Callable[..., Any], *args: Any) -> Any:
        return self._pool.apply_async(func, args)

    def wait(self, future: Any) -> Any:
        return future.get()

    def call(self, func: Callable[..., Any], *args: Any) -> Any:
        return self._pool.apply(func, args)

    def map(
        self, func: Callable[..., Any], items: Iterable[Any], chunksize: int | None, ordered: bool
    ) -> Iterable[Any]:
        if ordered:
            return self._pool.map(func, items, chunksize)
        return self._pool.imap_unordered(func, items, chunksize or 1)

    def close(self) -> None:
        self._pool.close()
        self._pool.join()


class ProcessPoolExecutor(Peer):
    """concurrent.futures.ProcessPoolExecutor, with the start method that is the default."""

    module = "concurrent.futures.process"
    method: ClassVar[str | None] = None

    def __init__(self, workers: int) -> None:
        import concurrent.futures
        import multiprocessing

        self._pool: Any = concurrent.futures.ProcessPoolExecutor(
            workers, multiprocessing.get_context(self.method))
        self.start = self._pool.submit

    def map(
        self, func: Callable[..., Any], items: Iterable[Any], chunksize: int | None, ordered: bool
    ) -> Iterable[Any]:
        return self._pool.map(func, items, chunksize=chunksize or 1)

    def close(self) -> None:
        self._pool.shutdown()


class SpawnExecutor(ProcessPoolExecutor):
    """ProcessPoolExecutor whose workers are fresh interpreters."""

    method = "spawn"


# --- other packages


class Loky(ProcessPoolExecutor):
    """loky."""

    module = "loky"

    def __init__(self, workers: int) -> None:
        import loky

        self._pool = loky.ProcessPoolExecutor(workers)
        self.start = self._pool.submit


class Joblib(Peer):
    """joblib.Parallel. It has a map only, and with one worker no process."""

    module = "joblib"

    def __init__(self, workers: int) -> None:
        import joblib

        if workers == 1:
            raise NotImplementedError("joblib with one worker starts none")
        self._joblib = joblib
        self._workers = workers

    def map(
        self, func: Callable[..., Any], items: Iterable[Any], chunksize: int | None, ordered: bool
    ) -> Iterable[Any]:
        parallel = self._joblib.Parallel(self._workers, batch_size=chunksize or "auto")
        return parallel(map(self._joblib.delayed(func), items))

    def close(self) -> None:
        from joblib.externals.loky import get_reusable_executor

        get_reusable_executor().shutdown()


class Mpire(Peer):
    """mpire.WorkerPool."""

    module = "mpire"

    def __init__(self, workers: int) -> None:
        import mpire

        self._pool = mpire.WorkerPool(workers, keep_alive=True)

    def start(self, func: Callable[..., Any], *args: Any) -> Any:
        return self._pool.apply_async(func, args)

    def wait(self, future: Any) -> Any:
        return future.get()

    def map(
        self, func: Callable[..., Any], items: Iterable[Any], chunksize: int | None, ordered: bool
    ) -> Iterable[Any]:
        chosen = self._pool.map if ordered else self._pool.imap_unordered
        return chosen(func, items, chunk_size=chunksize)

    def close(self) -> None:
        self._pool.stop_and_join()


class Pebble(Peer):
    """pebble.ProcessPool."""

    module = "pebble"

    def __init__(self, workers: int) -> None:
        import pebble

        self._pool = pebble.ProcessPool(workers)

    def start(self, func: Callable[..., Any], *args: Any) -> Any:
        return self._pool.schedule(func, args)

    def map(
        self, func: Callable[..., Any], items: Iterable[Any], chunksize: int | None, ordered: bool
    ) -> Iterable[Any]:
        return self._pool.map(func, items, chunksize=chunksize or 1).result()

    def close(self) -> None:
        self._pool.close()
        self._pool.join()


class Ray(Peer):
    """Ray on this machine alone; maps with its multiprocessing.Pool.

    Args:
        workers: number of CPUs that Ray is told of.
        copy: make arrays that come back writable; as they come they are views of its store.
    """

    module = "ray"
    noisy = True

    def __init__(self, workers: int, copy: bool = False) -> None:
        import ray

        self._ray = ray
        self._copy = copy
        self._workers = workers
        ray.init(num_cpus=workers, include_dashboard=False, configure_logging=False,
                 log_to_driver=False, object_store_memory=4 << 30)
        self._remote: dict[Any, Any] = {}
        self._pool: Any = None

    def start(self, func: Callable[..., Any], *args: Any) -> Any:
        if func not in self._remote:
            self._remote[func] = self._ray.remote(func)
        return self._remote[func].remote(*args)

    def wait(self, future: Any) -> Any:
        value = self._ray.get(future)
        return value.copy() if self._copy and hasattr(value, "copy") else value

    def map(
        self, func: Callable[..., Any], items: Iterable[Any], chunksize: int | None, ordered: bool
    ) -> Iterable[Any]:
        if self._pool is None:
            from ray.util.multiprocessing import Pool

            self._pool = Pool(self._workers)
        chosen = self._pool.map if ordered else self._pool.imap_unordered
        return chosen(func, items, chunksize)

    def close(self) -> None:
        self._ray.shutdown()


class Dask(Peer):
    """Dask distributed on this machine alone."""

    module = "distributed"
    noisy = True

    def __init__(self, workers: int) -> None:
        import distributed

        self._cluster = distributed.LocalCluster(
            n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None,
            silence_logs=50)
        self._client = distributed.Client(self._cluster)

    def start(self, func: Callable[..., Any], *args: Any) -> Any:
        return self._client.submit(func, *args, pure=False)

    def map(
        self, func: Callable[..., Any], items: Iterable[Any], chunksize: int | None, ordered: bool
    ) -> Iterable[Any]:
        return self._client.gather(
            self._client.map(func, list(items), pure=False, batch_size=chunksize))

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self._client.close()
        self._cluster.close()


PEERS: dict[str, type[Peer]] = {
    "distex": Distex,
    "distex async": DistexAsync,
    "distex ssh async": DistexSshAsync,
    "distex 0.7.2": Distex07,
    "distex 0.7.2 async": Distex07Async,
    "distex 0.7.2 ssh async": Distex07SshAsync,
    "multiprocessing.Pool": MultiprocessingPool,
    "ProcessPoolExecutor": ProcessPoolExecutor,
    "ProcessPoolExecutor spawn": SpawnExecutor,
    "loky": Loky,
    "joblib": Joblib,
    "mpire": Mpire,
    "Pebble": Pebble,
    "Ray": Ray,
    "Dask": Dask,
}
