"""The number of workers on this machine: the one that was asked for last, and the way there.

    scale(3) ──> asked: 3 ──> begins what it takes ──> all are ready ──> scale(3) returns
    scale(0) ──> asked: 0 ──> scale(3) returns, overtaken;  begins what it takes from there ──> ...

A call asks for a state and not for a change, so however many come at a time the last one wins. What
is asked for begins at once, in the turn of the loop in which the call comes.
"""

import asyncio

from distex.cluster.losses import own_copy
from distex.cluster.membership import Membership
from distex.cluster.state import Cluster
from distex.errors import BrokenPool, HostError, PoolClosed
from distex.launch.local import LocalLauncher


class Scaling:
    """Has as many workers on this machine as was asked for last.

    Args:
        cluster: the supervisor.
        membership: starts and ends hosts and workers.
    """

    def __init__(self, cluster: Cluster, membership: Membership) -> None:
        self._cluster = cluster
        self._membership = membership
        self._asked: int | None = None  # the last number; None: nobody has asked
        self._callers: list[asyncio.Future[None]] = []  # they all have asked for that
        self._leaving: list[asyncio.Future[None]] = []  # done when the surplus is gone
        self._complete: asyncio.Future[None] | None = None  # done when the workers are ready
        self._work: asyncio.Task[None] | None = None  # waits for both

    async def scale(self, number: int) -> None:
        """Have so many workers on this machine; wait until they are ready and the others gone, or
        until another call asks for another number.

        Args:
            number: how many; 0: none, and no nanny.

        Raises:
            PoolStartError: they can't be started; the pool has as many as could be then.
            PoolClosed: the pool ended before that.
        """
        self._cluster.check_not_stopping()
        if number != self._asked:
            self._settle(None)
            self._leaving.clear()
        self._asked = number
        self._begin(number)
        caller: asyncio.Future[None] = self._cluster.loop.create_future()
        self._callers.append(caller)
        await caller

    def _begin(self, number: int) -> None:
        """Begin what it takes from what is there now."""
        if self._complete is not None:
            self._complete.cancel()
            self._complete = None
        if self._work is not None:
            self._work.cancel()
        local = [host for host in self._cluster.hosts if host.is_local]
        staying = [host for host in local if not host.leaving]
        if not number:
            self._membership.begin_removal(staying, drain=True)
            self._leaving += [host.removed for host in local]
        elif not staying:
            host = self._membership.begin(LocalLauncher(number, self._cluster.settings.hash_seed))
            self._complete = self._membership.expect_complete(host)
        else:
            host = staying[0]
            # first, so that it hears of a failure
            self._complete = self._membership.expect_complete(host)
            surplus = self._membership.resize(host, number)
            self._leaving += [worker.gone for worker in surplus]
        work = self._cluster.loop.create_task(self._reach(self._complete, list(self._leaving)))
        self._work = work
        self._cluster.keep(work)
        work.add_done_callback(self._reached)

    async def _reach(
        self, complete: "asyncio.Future[None] | None", leaving: "list[asyncio.Future[None]]"
    ) -> None:
        """Wait until all that stay are ready, and the others gone."""
        if complete is not None:
            try:
                await complete
            except HostError:  # it was removed meanwhile, as another call wants it
                return
        if leaving:
            await asyncio.wait(leaving)

    def _reached(self, work: "asyncio.Task[None]") -> None:
        if work is not self._work:  # overtaken
            return
        self._leaving.clear()
        if work.cancelled():
            self._settle(PoolClosed("the pool was ended before that was done"))
        else:
            error = work.exception()
            assert error is None or isinstance(error, BrokenPool)
            self._settle(error)

    def _settle(self, error: BrokenPool | None) -> None:
        """Have the calls return."""
        callers, self._callers = self._callers, []
        for caller in callers:
            if caller.done():  # it was cancelled
                continue
            if error is None:
                caller.set_result(None)
            else:
                caller.set_exception(own_copy(error))
