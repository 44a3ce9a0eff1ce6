"""The settings of a pool, as client/arguments.py has checked them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from distex.errors import WorkerLost
from distex.launch.base import Launcher, hash_seed
from distex.launch.hosts import TcpOptions
from distex.options import LoopType, PickleType
from distex.wire.output import Output


@dataclass(frozen=True)
class Settings:
    """The settings of one pool."""

    launchers: tuple[Launcher, ...]  # one for each host
    qsize: int = 2
    initializer: tuple[Callable[..., Any], tuple[Any, ...]] | None = None
    loop_type: int = LoopType.default
    func_pickle: int = PickleType.cloudpickle
    data_pickle: int = PickleType.pickle
    spin: float = 0.0  # seconds
    start_timeout: float = 0.0  # seconds; 0: any number
    localhost: str = ""
    localport: int = 0
    tcp: TcpOptions = field(default_factory=TcpOptions)
    max_pending: int = 0  # 0: any number
    waits_when_full: bool = True
    on_worker_lost: Callable[[WorkerLost], object] | None = None
    max_tasks_per_child: int = 0  # 0: any number
    max_memory_per_child: int = 0  # bytes; 0: any amount
    hash_seed: int = field(default_factory=hash_seed)
    modules: bytes = b""  # from wire.modules.pack()
    output: Output = None

    @property
    def may_be_joined(self) -> bool:
        """Whether workers may join by themselves."""
        return bool(self.localhost or self.localport)
