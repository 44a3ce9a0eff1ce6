"""Check the arguments of Pool, before anything is started."""

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from distex.cluster.settings import Settings
from distex.errors import WorkerLost
from distex.launch.base import Launcher, hash_seed
from distex.launch.hosts import HostSpec, TcpOptions, parse_hosts
from distex.launch.local import LocalLauncher
from distex.launch.server import ServerLauncher
from distex.machine import loop_factory, usable_cpus
from distex.options import LoopType, PickleType, seconds
from distex.wire import modules, serializers
from distex.wire.output import Output, sink


def check_settings(
    *,
    num_workers: int,
    max_workers: int | None,
    hosts: str | HostSpec | Sequence[str | HostSpec] | None,
    qsize: int,
    initializer: Callable[..., Any] | None,
    initargs: tuple[Any, ...],
    localhost: str,
    localport: int,
    worker_loop: int,
    func_pickle: int,
    data_pickle: int,
    spin: float,
    tcp: TcpOptions | None,
    max_pending: int | None,
    when_full: str,
    on_worker_lost: Callable[[WorkerLost], object] | None,
    start_timeout: float | None,
    max_tasks_per_child: int | None,
    max_memory_per_child: int | None,
    ship: Sequence[ModuleType],
    output: Output,
) -> Settings:
    """Return the settings for these arguments of Pool.

    Raises:
        ValueError, TypeError: an argument makes no sense.
        ImportError: a serializer or an event loop is not installed.
    """
    if max_workers is not None:
        if num_workers:
            raise TypeError("num_workers and max_workers are the same: give one of them")
        check_int("max_workers", max_workers)
        if max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        num_workers = max_workers
    num_workers = num_workers or 0
    check_count(num_workers)
    check_int("qsize", qsize)
    if qsize < 1:
        raise ValueError("qsize must be at least 1")
    tcp = tcp or TcpOptions()
    check_int("localport", localport)
    if not 0 <= localport < 65536:
        raise ValueError("localport must be between 0 and 65535")
    spin = seconds("spin", spin, least=0)
    if start_timeout is not None:
        start_timeout = seconds("start_timeout", start_timeout)
    if initializer is not None and not callable(initializer):
        raise TypeError("initializer must be a callable")
    if on_worker_lost is not None and not callable(on_worker_lost):
        raise TypeError("on_worker_lost must be a callable")
    if when_full not in ("wait", "raise"):
        raise ValueError("when_full must be 'wait' or 'raise'")
    if max_pending is not None:
        check_int("max_pending", max_pending)
        if max_pending < 1:
            raise ValueError("max_pending must be at least 1")
    for name, limit in (("max_tasks_per_child", max_tasks_per_child),
                        ("max_memory_per_child", max_memory_per_child)):
        if limit is not None:
            check_int(name, limit)
            if limit < 1:
                raise ValueError(f"{name} must be >= 1")
    sink(output)
    if LoopType(worker_loop) != LoopType.default:  # which is always there
        loop_factory(worker_loop)
    serializers.for_data(data_pickle)
    serializers.for_functions(func_pickle)
    seed = hash_seed()
    return Settings(
        launchers=launchers(num_workers, parse_hosts(hosts), tcp, seed,
                            may_be_joined=bool(localhost or localport)),
        hash_seed=seed,
        qsize=qsize,
        initializer=(initializer, tuple(initargs)) if initializer is not None else None,
        loop_type=LoopType(worker_loop),
        func_pickle=PickleType(func_pickle),
        data_pickle=PickleType(data_pickle),
        spin=spin,
        start_timeout=start_timeout or 0.0,
        localhost=localhost,
        localport=localport,
        tcp=tcp,
        max_pending=max_pending or 0,
        waits_when_full=when_full == "wait",
        on_worker_lost=on_worker_lost,
        max_tasks_per_child=max_tasks_per_child or 0,
        max_memory_per_child=max_memory_per_child or 0,
        modules=modules.pack(ship),
        output=output,
    )


def launchers(
    num_workers: int, hosts: list[HostSpec], tcp: TcpOptions, seed: int, *, may_be_joined: bool
) -> tuple[Launcher, ...]:
    """Return a launcher for each host, this machine included.

    Args:
        num_workers: on this machine; 0: one for each usable CPU, if there is nothing else.
        hosts: the others.
        tcp: for those of them that are not reached by ssh.
        seed: for hash(), of all workers on this machine.
        may_be_joined: whether workers may join by themselves.
    """
    made: list[Launcher] = []
    if num_workers or not (hosts or may_be_joined):
        made.append(LocalLauncher(num_workers or usable_cpus(), seed))
    for spec in hosts:
        if spec.is_ssh:
            from distex.launch.ssh import SshLauncher  # most pools don't need it

            made.append(SshLauncher(spec))
        else:
            made.append(ServerLauncher(spec, tcp))
    return tuple(made)


def check_count(num_workers: int) -> None:
    """Raise TypeError or ValueError if this is no number of workers."""
    check_int("num_workers", num_workers)
    if num_workers < 0:
        raise ValueError("num_workers must not be negative")


def check_int(name: str, value: Any) -> None:
    """Raise TypeError if the argument of this name is no integer."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, not {type(value).__name__}")
