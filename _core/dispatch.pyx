# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""The scheduler: which task goes to which worker, which answer belongs to which task. No I/O.

                    any thread          the pool's own loop
    Task ──submit──> Inbox ──add──> queue ──pump──> WorkerLink.send ──> FrameWriter
    Task <─succeed, fail──────────────────────────── WorkerLink.on_frame <── frames

A worker gets up to ``qsize`` tasks, and more while the time they are expected to take is below
``AHEAD_NS``: tiny tasks travel many at a time, and wake no more workers of a host than it has CPUs;
slow ones wait here for the first worker that is free. What a call of a function takes is learned
from the times that come back with results. Where that goes wrong, so that a worker has nothing to
do while another has too much, or a chunk takes far longer than it was meant to, a worker is asked
to give back what it has not started (RECALL, RETURNED), and that is shared out anew. One that does
not answer, as it is busy with a single call, has it withdrawn by its nanny.

Everything but Inbox.put, Dispatcher.submit and the end of a Function's life happens on the thread
of the pool's loop.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.pythread cimport PyThread_get_thread_ident
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy

from collections import deque

from distex._core.chunk cimport ChunkTask
from distex._core.clock cimport seconds
from distex._core.codec cimport Codec, Cursor
from distex._core.framing cimport (
    BYE, CALL, CANCEL, CANCELLED, CHUNK, ERROR, FORGET, FUNCTION, LANE, PART, RECALL, RESULT,
    RETURNED, Buffer, FrameHandler, FrameWriter, Header, Kind,
)
from distex._core.functions cimport Function, FunctionTable
from distex._core.inbox cimport Inbox
from distex._core.names cimport any_noted, take_names
from distex._core.semaphore cimport Semaphore
from distex._core.task cimport Deadlines, Limits, Task

from distex.errors import ProtocolError
from distex.remote_errors import annotate, load_exception

cdef enum:
    # tiny tasks are sent ahead while what is on the worker takes less than this
    AHEAD_NS = 2_000_000
    # tasks of less than this are packed onto one worker until it has got PACK_NS of them, or
    # FAR_PACK_NS on another machine: to wake another one costs more than to wait
    TINY_NS = 25_000
    PACK_NS = 60_000
    FAR_PACK_NS = 400_000
    # how many busy links are looked at for the one with the least to do
    SCAN_LINKS = 32
    # flags of FUNCTION: in front of it are the definitions that it needs
    NEEDS = 1
    SLOT_BITS = 16
    SLOT_COUNT = 1 << 16
    # a chunk that has taken this many times what it was meant to, and more than AHEAD_NS, is shared
    # out anew
    LATE_FACTOR = 8
    # looks at which has nothing to do and which too much, before a worker that was asked to give
    # something back is taken to be too busy to hear of it
    RECALL_LOOKS = 5
    # workers that may be lost with a task on them without it being blamed; with the next one it is
    SPARED_LIMIT = 8


# seconds for which a worker has nothing to do before others are asked for some of theirs
BALANCE_DELAY = 0.004
# seconds for which a worker with tiny tasks gives no answer before another one is woken beside it
LAG_DELAY = 0.004
# seconds for which tasks are tried apart from all others, doubled each time, from twice that on
TRIAL_TIME = 0.5
# seconds until a worker that has closed its lane is known to be dead, if it is
LANE_GRACE = 1.0


cdef int put_function(FrameWriter out, Function function) except -1:
    """Write a function: in front of it the ids and serials of the definitions that it needs."""
    cdef Buffer scratch
    cdef uint32_t numbers[2]
    if function.needs is None:
        out.frame(FUNCTION, 0, function.serial, function.id,
                  PyBytes_AS_STRING(function.payload), PyBytes_GET_SIZE(function.payload),
                  function.segments)
        return 0
    scratch = Buffer.__new__(Buffer)
    numbers[0] = <uint32_t>len(function.needs)
    scratch.put(<const char*>numbers, 4)
    for need in function.needs:
        numbers[0] = (<Function>need).id
        numbers[1] = (<Function>need).serial
        scratch.put(<const char*>numbers, 8)
    scratch.put(PyBytes_AS_STRING(function.payload), PyBytes_GET_SIZE(function.payload))
    out.frame(FUNCTION, NEEDS, function.serial, function.id, scratch.data, scratch.size,
              function.segments)
    return 0


cdef Function complete(Function function):
    """The function with the definitions too that the arguments just pickled refer to."""
    cdef set names = take_names()
    if names.issubset(function.names) or function.table.extend is None:
        return function
    return function.table.extend(function, names)


cdef list split_suspects(list tasks):
    """Groups of tasks, each of which is to be tried apart. The one that was started last is the
    first to be looked at; of the others each half is, and so on, until the one is found."""
    cdef Task task
    groups = [[task] for task in tasks if task.spared >= SPARED_LIMIT]
    tasks = [task for task in tasks if task.spared < SPARED_LIMIT]
    half = len(tasks) // 2
    groups.extend(group for group in (tasks[-1:], tasks[:half], tasks[half:-1]) if group)
    return groups


cdef class Machine:
    """What the workers of one host share: its CPUs. More of them than it has CPUs may be there, to
    wait for something or to sleep, but where tasks are tiny, those beyond would only be woken to
    wait for a CPU.

    Args:
        is_local: whether it is this one.
        cpus: that the workers may use; 0: not known.
    """

    def __init__(self, bint is_local=True, Py_ssize_t cpus=0):
        self.is_local = is_local
        self.cpus = cpus
        self.pack_ns = PACK_NS if is_local else FAR_PACK_NS

    cdef bint is_crowded(self):
        """Whether each CPU has a worker that is busy."""
        return 0 < self.cpus <= self.busy


cdef class WorkerLink(FrameHandler):
    """The pool's end of one worker: the tasks it has, and what it was told.

    Args:
        dispatcher: whose worker it is.
        out: where frames for the worker are written.
        worker: whatever describes the worker in errors.
        machine: where it runs.
    """

    def __init__(self, Dispatcher dispatcher, FrameWriter out, worker, Machine machine):
        self.dispatcher = dispatcher
        self.out = out
        self.worker = worker
        self.machine = machine
        self.slots = []
        self.free_slots = []
        self.known = {}
        self.returned = []
        self.withdrawn = set()
        self.done_then = -1
        self.budget = dispatcher.max_calls or -1

    cdef bint has_room(self, double cost_ns):
        if (self.lost or self.retiring or self.apart or self.hangs or self.lane_task is not None
                or self.budget == 0 or self.out.congested()):
            return False
        if self.in_flight < self.dispatcher.qsize:
            return True
        return (cost_ns > 0 and self.load_ns + cost_ns <= AHEAD_NS
                and self.dispatcher.qsize > 1 and self.in_flight < SLOT_COUNT - 1)

    cdef bint has_little(self) noexcept:
        """Whether it is known to be soon done with what it has."""
        return 0 < self.load_ns <= AHEAD_NS

    cdef bint takes(self, double cost_ns, WorkerLink idle):
        """Whether to give it a task of this cost rather than the idle one, if there is one."""
        return self.has_room(cost_ns) and (
            idle is None or self.in_flight == 0 or 0 < self.load_ns <= AHEAD_NS - cost_ns)

    cdef int _begin(self) except -1:
        """It gets a task, of the loop's or of a lease."""
        busy = self.dispatcher.busy
        if self.in_flight == 0:
            self.place = len(busy)
            busy.append(self)
            self.machine.busy += 1
            self.period = self.dispatcher.period
        self.in_flight += 1
        self.dispatcher.in_flight += 1
        return 0

    cdef int _end(self) except -1:
        """It is done with one of its tasks."""
        self.in_flight -= 1
        self.dispatcher.in_flight -= 1
        if self.in_flight == 0:
            self.apart = False
            self.hangs = False  # its last task may have come by the lane, where no batch ends
            self._leave_busy()
            self._list_idle()
        return 0

    cdef int _leave_busy(self) except -1:
        """It has nothing to do any more, or is lost."""
        busy = self.dispatcher.busy
        cdef WorkerLink last = busy.pop()
        if last is not self:
            busy[self.place] = last
            last.place = self.place
        self.machine.busy -= 1
        return 0

    cdef int _list_idle(self) except -1:
        """It may be given something to do."""
        if not self.idle_listed and not self.lost:
            self.idle_listed = True
            self.dispatcher.idle.append(self)
        return 0

    cdef int send(self, Task task) except -1:
        """Write the task to the worker, or fail it if its arguments can't be written."""
        cdef FrameWriter out = self.out
        cdef Dispatcher dispatcher = self.dispatcher
        cdef Function function = task.function
        cdef Py_ssize_t mark, slot
        cdef Buffer scratch = None
        cdef list segments = None
        if function is not self.latest:
            self._teach(function)
        mark = out.begin(<Kind>task.kind, 0, function.id, 0)
        if not task.put_native(out, dispatcher.codec):
            out.size = mark
            scratch = Buffer.__new__(Buffer)
            segments = []
            try:
                task.put(scratch, dispatcher.codec, segments)
            except BaseException as exc:
                annotate(exc, f"raised while the arguments of {function.name} were being pickled")
                task.fail(exc)
                return 0
            if self.lost:  # while pickling
                dispatcher.queue.appendleft(task)
                return 0
            if any_noted():
                function = complete(function)
                if function is not task.function:
                    task.function = function
                    self._teach(function)
        # only now, as pickling may have sent other tasks: ids rise in the order of the frames
        if self.free_slots:
            slot = self.free_slots.pop()
            self.slots[slot] = task
        else:
            slot = len(self.slots)
            self.slots.append(task)
        task.wire_id = self._next_id(slot)
        task.link = self
        task.booked_ns = function.cost_ns * task.calls
        self.load_ns += task.booked_ns
        # what follows in the same tick of the loop travels together, but need not keep it waiting:
        # that takes one turn of the loop less for a task that comes alone, 1 of 18 us
        out.urgent = self.in_flight == 0
        self._begin()
        if self.budget > 0:
            self.spend(task.calls)
        if (self.in_flight > 1 or task.calls > 1) and not dispatcher.balancing:
            dispatcher.look_soon()
        if scratch is None:
            (<Header*>(out.data + mark)).id = task.wire_id
            (<Header*>(out.data + mark)).flags = task.flags
            out.end(mark)
        else:
            out.frame(<Kind>task.kind, task.flags, function.id, task.wire_id,
                      scratch.data, scratch.size, segments)
        return 0

    cdef int _teach(self, Function function) except -1:
        """Send the function, and the definitions that it needs, unless the worker has them."""
        if function.id not in self.known:
            for need in function.needs or ():
                if (<Function>need).id not in self.known:
                    self._send_function(<Function>need)
            self._send_function(function)
        self.latest = function
        return 0

    cdef int _send_function(self, Function function) except -1:
        put_function(self.out, function)
        self.known[function.id] = function.links
        function.links.append(self)
        return 0

    cdef uint64_t _next_id(self, Py_ssize_t slot) noexcept:
        """For a task that is sent now: a worker starts its tasks in the order of their ids."""
        self.sequence += 1
        return self.sequence << SLOT_BITS | <uint64_t>slot

    cdef int spend(self, uint32_t calls) except -1:
        """So many calls of those that the worker is for have been sent to it."""
        self.budget = max(0, self.budget - <int64_t>calls)
        if self.budget == 0:
            self.dispatcher.inbox.put(self.worker.exhausted)
        return 0

    def cancel(self, Task task):
        """Ask the worker to drop the task, or to cancel it if it is a coroutine that runs, and its
        nanny to interrupt a plain function, or a coroutine that blocks, where that is wanted. It
        keeps its place until the worker has answered."""
        if task.link is self and not self.lost:
            task.is_unwanted = True
            self._cancel(task.wire_id, -1 if task.limits is None else task.limits.grace)

    def cancel_leased(self, id, grace):
        """Have the nanny interrupt a task that came by the lane, which is closed; by that the
        worker knows that a coroutine is cancelled."""
        if not self.lost:
            self._cancel(id, grace)

    cdef int _cancel(self, uint64_t id, double grace) except -1:
        self.out.frame(CANCEL, 0, 0, id, NULL, 0, None)
        self.cancels += 1
        if grace >= 0:
            # once the frame has been sent, and those of others that are cancelled with it: a
            # worker that is interrupted looks what else it is not to begin
            self.dispatcher.loop.call_soon(self.worker.interrupt, id, grace, self.cancels)
        return 0

    def forget(self, id):
        """Tell the worker that a function will not be called any more."""
        if self.known.pop(id, None) is not None:
            if not self.lost:
                self.out.frame(FORGET, 0, 0, id, NULL, 0, None)
        if self.latest is not None and self.latest.id == id:
            self.latest = None

    cdef Task _find(self, uint64_t id):
        cdef Py_ssize_t slot = id & (SLOT_COUNT - 1)
        cdef Task task = None
        if slot < len(self.slots):
            task = self.slots[slot]
        if task is None or task.wire_id != id:
            raise ProtocolError(f"an answer to task {id}, which the worker does not have")
        return task

    cdef int _settle(self, Py_ssize_t slot, Task task, uint32_t done) except -1:
        """The worker is done with the task, after so many calls of it."""
        self.slots[slot] = None
        self.free_slots.append(slot)
        self.load_ns -= task.booked_ns
        self.tasks_done += done
        task.link = None
        self._end()
        if self.in_flight == 0:
            self.recalled = 0
            self.load_ns = 0  # and whatever rounding has left there
            # without work it keeps no function alive
            self.latest = None
        return 0

    cdef int on_frame(self, Header* header, const char* body, list segments) except -1:
        cdef Cursor cursor
        cdef Task task
        cdef double spent_ns
        cdef int kind = header.kind
        if self.lost:  # what it says is about tasks that have had their end
            return 0
        if kind == RETURNED:
            return self._take_back(header, body)
        if kind < RESULT or kind > CANCELLED:
            return FrameHandler.on_frame(self, header, body, segments)
        task = self._find(header.id)
        cursor.data = body
        cursor.end = body + header.length
        cursor.segment = 0
        if kind == PART:
            # of coroutines it says nothing
            spent_ns = 0 if header.flags else header.aux
            task.on_part(&cursor, segments, self.dispatcher.codec, spent_ns)
            if (0 < LATE_FACTOR * task.booked_ns < spent_ns and spent_ns > AHEAD_NS
                    and len(self.dispatcher.links) > 1 and self.has_too_much()):
                self.recall()
            return 0
        self._settle(header.id & (SLOT_COUNT - 1), task,
                     task.calls if kind == RESULT or task.kind == CALL
                     else task.answered() + (kind == ERROR))
        if kind == RESULT:
            if header.flags:  # it gave a coroutine
                task.function.is_async = True
                task.function.cost_ns = 0
            else:
                task.learn(task.calls, <double>header.aux)
            try:
                return task.on_result(&cursor, segments, self.dispatcher.codec)
            except ProtocolError as exc:
                task.fail(exc)
                raise
        if kind == CANCELLED:
            return task.cancelled_remotely()
        try:
            exc = load_exception(self.dispatcher.codec.get(&cursor, segments), self.worker,
                                 task.function.name if header.flags else None)
        except Exception as failure:
            exc = failure
        return task.fail(exc)

    cdef int _take_back(self, Header* header, const char* body) except -1:
        cdef Task task
        cdef int64_t spent = 0
        if header.id in self.withdrawn:
            self.withdrawn.remove(header.id)
            self.recalled = 0
            return 0
        task = self._find(header.id)
        if header.length != 8 or header.aux > task.calls:
            raise ProtocolError("a task is returned in a way that it can't be")
        memcpy(&spent, body, 8)
        self.recalled = 0
        self._settle(header.id & (SLOT_COUNT - 1), task, header.aux)
        if task.pinned:
            return self.send(task)
        self.returned.extend(task.on_returned(header.aux, <double>spent))
        return 0

    cdef int on_batch_end(self) except -1:
        cdef Dispatcher dispatcher = self.dispatcher
        dispatcher.full = False
        self.period = dispatcher.period
        self.hangs = False
        if self.returned:
            dispatcher.queue.extendleft(reversed(self.returned))
            self.returned.clear()
        if dispatcher.spin:
            dispatcher.keep_awake()
        dispatcher.pump(self)
        if self.on_retired is not None:
            self._look_retired()
        if self.in_flight == 0 and dispatcher.in_flight and not dispatcher.balancing:
            dispatcher.look_soon()
        return 0

    cdef bint has_too_much(self):
        """Whether it could give something back that it has not started."""
        cdef Task task
        if self.recalled or self.lost or self.lane_task is not None:
            return False
        if self.in_flight > 1:
            return True
        for task in self.slots:
            if task is not None and task.calls > 1:
                return True
        return False

    cdef int recall(self) except -1:
        """Have it give back what it has not started."""
        self.recalled = 1
        return self.out.frame(RECALL, 0, 0, 0, NULL, 0, None)

    cdef bint relieve(self, bint others_idle):
        """Have it give something back if it has too much; whether to look again soon."""
        if self.recalled:
            if self.recalled > RECALL_LOOKS or not (others_idle or self.retiring):
                return False
            self.recalled += 1
            if self.recalled > RECALL_LOOKS:
                self.worker.withdraw(self.sequence << SLOT_BITS | (SLOT_COUNT - 1))
            return True
        if not others_idle or not self.has_too_much():
            return False
        if self.has_little() and self.done_then != <int64_t>self.tasks_done:
            self.done_then = <int64_t>self.tasks_done  # it gets on
        else:
            self.recall()
        return True

    def on_withdrawn(self, uint64_t last, uint64_t started, item):
        """The worker hangs, as far as is known, and will not begin what it has not begun.

        Args:
            last: id of the last task that this is about.
            started: id of the last task that it has started.
            item: if that is a chunk, the last item that it begins; else no such number.
        """
        cdef Task task
        cdef list taken = self.returned
        if self.lost:
            return
        for task in sorted((task for task in self.slots if task is not None), key=_wire_id):
            if task.wire_id == started:
                # one that was sent after the nanny was asked goes on
                if task.wire_id <= last and task.kind == CHUNK and 0 <= item < task.calls:
                    taken.extend((<ChunkTask>task).cut(item))
            elif started < task.wire_id <= last and not (task.pinned or task.is_unwanted):
                self.withdrawn.add(task.wire_id)
                self._settle(task.wire_id & (SLOT_COUNT - 1), task, 0)
                taken.extend(task.on_returned(0, 0))
        self.hangs = self.in_flight > 0
        if taken:
            self.dispatcher.queue.extendleft(reversed(taken))
            taken.clear()
            self.dispatcher.full = False
            self.dispatcher.pump(None)
        if self.on_retired is not None:
            self._look_retired()

    cdef int begin_trial(self, list group) except -1:
        """Send it, as it has nothing to do, tasks that it gets no others beside for a while: until
        they are done, or have gone well for long enough. They may be waiting for others."""
        cdef Task task
        cdef Dispatcher dispatcher = self.dispatcher
        cdef double now = 0, delay = TRIAL_TIME
        self.apart = True
        self.trials += 1
        for task in group:
            delay = max(delay, TRIAL_TIME * (1 << task.spared))
            if self.lost:  # while another one was pickled
                dispatcher.queue.appendleft(task)
            else:
                dispatcher.send_waiting(self, task, &now)
        if self.in_flight == 0:
            self.apart = False
        elif task.spared < SPARED_LIMIT:
            dispatcher.loop.call_later(delay, self._end_trial, self.trials)
        return 0

    def _end_trial(self, trial):
        cdef Dispatcher dispatcher = self.dispatcher
        if self.apart and self.trials == trial and not self.lost:
            self.apart = False
            if dispatcher.suspects and not self.retiring:  # nothing speaks against these any more
                dispatcher.try_suspects(self)
            if not self.apart:
                dispatcher.full = False
                dispatcher.pump(self)

    def writable(self):
        """The worker takes data again."""
        self.dispatcher.full = False
        if self.in_flight == 0:  # nobody would look at it
            self._list_idle()
        self.dispatcher.pump(self)

    def disconnected(self, exc):
        """The connection to the worker is gone."""
        self.worker.disconnected(exc)

    def ask_for_lane(self):
        """Have the worker open a lane, see lane.pyx."""
        if not self.lost:
            self.out.frame(LANE, 0, 0, 0, NULL, 0, None)

    def lane_closed(self):
        """The worker has closed its lane: most likely it is dying, which will be known in a moment.
        If not, it is cut off, as the call that was on the lane has no other end."""
        self.dispatcher.loop.call_later(LANE_GRACE, self._cut_off)

    def _cut_off(self):
        if not self.lost:
            self.out.abort()

    def say_goodbye(self):
        """Tell the worker that it may go."""
        if not self.lost:
            self.retiring = True
            self.out.frame(BYE, 0, 0, 0, NULL, 0, None)

    def retire(self, on_retired=None, bint give_back=True):
        """Send it no further tasks.

        Args:
            on_retired: called once it has done all that it has; never if it is lost before that.
            give_back: whether it gives back what it has not started, which goes to others.
        """
        self.retiring = True
        self.on_retired = on_retired
        if give_back and self.has_too_much():
            self.recall()
            if not self.dispatcher.balancing:
                self.dispatcher.look_soon()
        self._look_retired()

    def _look_retired(self):
        """Say that it is retired, if it is."""
        if self.retiring and self.in_flight == 0 and not self.lost:
            callback, self.on_retired = self.on_retired, None
            if callback is not None:
                callback()

    def lose(self, started_id, make_exception, item=-1):
        """The worker is gone. If it may have started one task, that fails with
        ``make_exception(task)``, or is tried again where that is wanted; of several, those that may
        be tried again are, apart from all others until the one to blame is found. The tasks that it
        had not started wait for another worker, before all that wait already.

        Args:
            started_id: wire id of the last task that it started; None: not known.
            make_exception: called with each task that is lost.
            item: if that task is a chunk, the item that it had come to; else no such number.
        """
        if self.lost:
            return
        self.lost = True
        dispatcher = self.dispatcher
        dispatcher.links.remove(self)
        dispatcher.tasks_done += self.tasks_done
        if self.idle_listed:
            self.idle_listed = False
            dispatcher.idle.remove(self)
        for links in self.known.values():
            links.remove(self)
        self.known.clear()
        if dispatcher.packing is self:
            dispatcher.packing = None
        cdef Task task
        cdef Task suspect
        tasks = sorted((task for task in self.slots if task is not None), key=_wire_id)
        self.slots = []
        self.latest = None
        dispatcher.in_flight -= self.in_flight
        if self.in_flight:
            self._leave_busy()
            self.in_flight = 0
        move, suspects = [], []
        if self.lane_task is None:
            self.lane = None
        else:  # its caller may be about to use the lane
            tasks.append(self.lane_task)
        cdef Py_ssize_t started = 0
        cdef bint has_started, apart
        for task in tasks:
            started += started_id is None or task.wire_id <= started_id
        for task in tasks:
            task.link = None
            dispatcher.tasks_done += task.answered()
            if task.is_ended():  # it was cancelled, or its time is over
                task.cancelled_remotely()
                continue
            if task.pinned or dispatcher.closed is not None:
                task.fail(make_exception(task))
                continue
            has_started = started_id is None or task.wire_id <= started_id
            parts = []
            if has_started:
                is_last = task.wire_id == started_id and 0 <= item < task.calls
                suspect = task.find_suspect(item if is_last else -1, parts)
                for part in parts:
                    (<Task>part).is_retried = True
                    if part is suspect:
                        break
            else:
                suspect = task
                parts.append(task)
            if suspect is not None:
                apart = has_started
                if (suspect.spared >= SPARED_LIMIT
                        or has_started and (started == 1 or suspect.retries() == 0)):
                    suspect.losses += 1
                    apart = True
                else:
                    suspect.spared += 1
                    apart = apart or suspect.spared >= SPARED_LIMIT
                if apart:
                    parts.remove(suspect)
                    if suspect.losses > suspect.retries():
                        suspect.fail(make_exception(suspect))
                    else:
                        suspects.append(suspect)
            move.extend(parts)
        dispatcher.suspects.extend(split_suspects(suspects))
        dispatcher.queue.extendleft(reversed(move))
        dispatcher.full = False
        dispatcher.pump(None)


def _wire_id(Task task):
    return task.wire_id


def _in_flight(WorkerLink link):
    return link.in_flight


cdef class Dispatcher:
    """Distributes tasks over the workers of one pool.

    Args:
        loop: the event loop on whose thread everything happens; the one running now.
        codec: how data are written.
        qsize: tasks that a worker may have at a time however long they take.
        spin: seconds for which the loop polls after a task was sent or answered.
        max_calls: that a worker may be sent before ``exhausted()`` of what describes it is called;
            0: any number.
        max_pending: calls that may be under way at a time, 0: any number; see Caller.
        waits: whether callers wait when there are so many, or are refused.
    """

    def __init__(self, loop, Codec codec, Py_ssize_t qsize, double spin=0,
                 Py_ssize_t max_calls=0, Py_ssize_t max_pending=0, bint waits=True):
        if max_pending:
            self.semaphore = Semaphore(max_pending, waits, self._submit_admitted)
        self.spin = spin
        self.max_calls = max_calls
        self.loop = loop
        self.thread = PyThread_get_thread_ident()
        self.codec = codec
        self.qsize = qsize
        self.inbox = Inbox(loop, self._receive)
        self.functions = FunctionTable(self.inbox)
        self.links = []
        self.idle = []
        self.busy = []
        self.queue = deque()
        self.suspects = []
        self.timed = set()

    @property
    def outstanding(self):
        """Tasks that wait or are on a worker."""
        waiting = 0 if self.semaphore is None else self.semaphore.waiting
        return len(self.queue) + sum(map(len, self.suspects)) + self.in_flight + waiting

    def _balance(self):
        """Let workers that have nothing to do take over from those that have too much."""
        cdef WorkerLink link
        cdef Py_ssize_t idle = 0
        cdef bint again = False
        self.balancing = False
        if not self.in_flight:
            return
        if not self.queue:
            for link in self.links:
                idle += link.in_flight == 0 and not link.retiring
        for link in list(self.links):
            if link.in_flight and link.relieve(idle > 0):
                again = True
                idle -= link.recalled == 1
        if again:
            self.look_soon()

    cdef int look_soon(self) except -1:
        """Look in a moment which worker has too much."""
        self.balancing = True
        self.loop.call_later(BALANCE_DELAY, self._balance)
        return 0

    cdef int keep_awake(self) except -1:
        """Begin, or go on, to keep the loop from sleeping; see Pool's spin."""
        self.spin_end = seconds() + self.spin
        if not self.spinning:
            self.spinning = True
            self.loop.call_soon(self._spin)
        return 0

    def _spin(self):
        cdef WorkerLink link
        if self.closed is None and seconds() < self.spin_end:
            self.loop.call_soon(self._spin)
            link = self.packing
            if link is not None and 0 < link.in_flight == self.in_flight:
                link.out.poll()  # for the one whom all answers will come from
        else:
            self.spinning = False

    cpdef bint on_home_thread(self) except -1:
        """Whether the caller is on the thread of the pool's loop, which has not been closed."""
        return PyThread_get_thread_ident() == self.thread and not self.loop.is_closed()

    def check_may_block(self):
        """Raise RuntimeError if this thread must not wait for the pool, as it runs the pool."""
        if self.on_home_thread():
            raise RuntimeError(
                "waiting here would block the event loop that runs this pool: use the ..._async "
                "method, or 'with Pool(...)' to have the pool run in a thread of its own")

    def connect(self, FrameWriter out, worker, Machine machine, first=()):
        """Take a worker in; the handler for its frames. It does the first tasks before any other.
        """
        link = WorkerLink(self, out, worker, machine)
        link.lane_wanted = not machine.is_local  # others can't have one
        self.links.append(link)
        for task in first:
            self.send_to(link, task)
        link._list_idle()
        self.full = False
        self.pump(link)
        return link

    def close(self, make_exception):
        """Take no further tasks; those that are left fail with ``make_exception(task)``."""
        cdef Task task
        self.closed = make_exception
        for task in self._take_all():
            task.fail(make_exception(task))
        for link in list(self.links):
            link.lose(None, make_exception)
        for deadlines in self.timed:
            deadlines.close()

    def cancel_queued(self):
        """Cancel all that no worker has yet, and what is to come, as from a map that goes on."""
        cdef Task task
        self.cancelling = True
        for task in self._take_all():
            task.drop()

    def _take_all(self):
        """Give the tasks that no worker has, one by one."""
        while self.suspects or self.queue:
            yield from self.suspects.pop() if self.suspects else (self.queue.popleft(),)

    cpdef int submit(self, Task task) except -1:
        """Have a task done, from any thread. Raises RuntimeError if the pool's loop is closed."""
        if self.on_home_thread():
            return self.add(task)
        try:
            return self.inbox.put(task)
        except RuntimeError:
            raise RuntimeError(
                "the event loop that ran this pool is closed: make another pool, and shut it down "
                "before its loop ends, as 'async with' does") from None

    def _receive(self, item):
        if isinstance(item, Task):
            self.add(<Task>item)
        elif isinstance(item, tuple):
            id, links = item
            for link in links:
                (<WorkerLink>link).forget(id)
            self.functions.free_ids.append(id)
        elif self.closed is None:  # else all that it could be about is gone
            item()

    cdef int add(self, Task task) except -1:
        cdef WorkerLink link
        if self.closed is not None:
            return task.fail(self.closed(task))
        if self.cancelling:
            return task.drop()
        if task.limits is not None and task.limits.timeout > 0 and task.kind == CALL:
            self.set_deadline(task)
        if self.spin:
            self.keep_awake()
        if not self.full and not self.queue:
            link = self.choose(self._cost(task), None)
            if link is not None:
                if task.start():
                    link.send(task)
                else:
                    task.forget_deadline()
                return 0
            self.full = bool(self.links)
        self.queue.append(task)
        return 0

    cdef bint starts(self, Task task, double* now) except -1:
        """Whether it is to be sent now: False if it was cancelled, or its time is over though its
        timer, which waits for the loop as all do, has not said so yet.

        now: what the clock says, 0 if nobody has looked.
        """
        if task.deadlines is not None:
            if now[0] == 0:
                now[0] = seconds()
            if task.deadline <= now[0]:
                self.expire(task)
                return False
        if task.start():
            return True
        task.forget_deadline()
        return False

    cdef int send_waiting(self, WorkerLink link, Task task, double* now) except -1:
        """Send a task that has waited, if it still is to be done."""
        if self.starts(task, now):
            if task.is_retried:
                task.is_retried = False
                self.tasks_retried += 1
            link.send(task)
        return 0

    def _submit_admitted(self, Task task):
        self.submit(task)

    def _expire(self, Task task):
        self.expire(task)

    def begin_timeout(self, Task task):
        """Have a task expire in time that waits for a permit. From any thread."""
        self.inbox.put(lambda: self.set_deadline(task))

    cdef int set_deadline(self, Task task) except -1:
        """Have the task expire when its time is over. Called again it does nothing."""
        cdef Limits limits = task.limits
        if task.deadlines is None and task.function is not None:
            if limits.deadlines is None or limits.deadlines.timed is not self.timed:
                limits.deadlines = Deadlines(self.loop, limits.timeout, self.timed, self._expire)
            limits.deadlines.add(task)
        return 0

    cdef int expire(self, Task task) except -1:
        """Its time is over."""
        cdef WorkerLink link = task.link
        task.forget_deadline()
        where = "it waited for a worker" if link is None else f"it was on {link.worker}"
        task.expire(TimeoutError(
            f"{task.name} was not done within {task.limits.timeout:g} s: {where}"))
        if link is not None:
            link.cancel(task)
        return 0

    def send_to(self, WorkerLink link, Task task):
        """Have a task done by one certain worker, behind all that it has already."""
        task.pinned = True
        if task.start():
            link.send(task)

    # --- leases; from any thread, so each runs undivided: no code of Python's in between

    cdef WorkerLink lease(self, Task task):
        """A worker with a lane that has nothing to do, for this task alone; or None."""
        cdef WorkerLink link
        cdef Py_ssize_t i
        if self.closed is not None or len(self.queue) or len(self.suspects):
            return None
        for i in range(len(self.idle) - 1, -1, -1):
            link = self.idle[i]
            if link.in_flight == 0 and not link.lost and not link.retiring and link.budget:
                if link.lane is not None and link.lane_task is None:
                    link.lane_task = task
                    task.wire_id = link._next_id(0)
                    link._begin()
                    if link.budget > 0:
                        link.spend(1)
                    return link
                if not link.lane_wanted:
                    link.lane_wanted = True
                    self.inbox.put(link.ask_for_lane)
                    return None
        return None

    cdef int release(self, WorkerLink link) except -1:
        """The caller has its answer."""
        link.lane_task = None
        if link.lost:
            link.lane = None
        else:
            link.tasks_done += 1
            link._end()
            if link.on_retired is not None:
                self.inbox.put(link._look_retired)
        if len(self.queue) or len(self.suspects) or self.on_drained is not None:
            self.inbox.put(self._pump)
        return 0

    def _pump(self):
        self.full = False
        self.pump(None)

    cdef double _cost(self, Task task):
        if task.function.is_async:
            return 0.0
        return task.function.cost_ns * task.calls

    cdef int pump(self, WorkerLink hint) except -1:
        """Send what waits for as long as there is room."""
        cdef WorkerLink link
        cdef Task task
        cdef double now = 0
        queue = self.queue
        if self.suspects:
            self.try_suspects(None)
        while queue:
            task = queue[0]
            link = self.choose(self._cost(task), hint)
            if link is None:
                self.full = bool(self.links)
                return 0
            queue.popleft()
            self.send_waiting(link, task, &now)
        if self.in_flight == 0 and not self.suspects and self.on_drained is not None:
            callback, self.on_drained = self.on_drained, None
            callback()
        return 0

    cdef int try_suspects(self, WorkerLink spare) except -1:
        """Give each group of suspects a worker that has nothing to do, or else the spare one, if
        there is one; if there is none, let one come to the end of what it has."""
        cdef WorkerLink link
        while self.suspects:
            link = self._next_idle(0)
            if link is None:
                link, spare = spare, None
            if link is None:
                link = self.reserved
                if self.busy and (link is None or link.lost or link.in_flight == 0):
                    self.reserved = min(self.busy, key=_in_flight)
                    self.reserved.apart = True
                return 0
            if link is self.reserved:
                self.reserved = None
            link.begin_trial(self.suspects.pop(0))
        if self.reserved is not None:
            self.reserved.apart = False
            self.reserved = None
        return 0

    cdef WorkerLink _next_idle(self, double cost_ns):
        """The worker without work that had some last, or None."""
        cdef WorkerLink link
        while self.idle:
            link = self.idle[len(self.idle) - 1]
            if link.in_flight == 0 and link.has_room(cost_ns):
                return link
            link.idle_listed = False
            self.idle.pop()
        return None

    cdef bint _wakes_another(self) except -1:
        """Whether one more worker than there are CPUs should get tiny tasks: where one of those
        that have some turns out not to get on with them."""
        if self.lagging:
            self.lagging -= 1
            return True
        if not self.watching:
            self.watching = True
            self.period += 1
            self.loop.call_later(LAG_DELAY, self._check_lagging)
        return False

    def _check_lagging(self):
        cdef WorkerLink link
        self.watching = False
        self.lagging = 0
        for link in self.busy:
            self.lagging += link.has_little() and link.period != self.period
        self._pump()
        self.lagging = 0

    cdef WorkerLink choose(self, double cost_ns, WorkerLink hint):
        """The worker that should do a task of this cost (0: not known), or None: wait."""
        cdef WorkerLink link, idle, packing = None, best = None
        cdef Py_ssize_t _i, n, prompt = 0
        cdef bint tiny = 0 < cost_ns < TINY_NS
        if tiny and self.packing is not None and 0 < self.packing.load_ns:
            if self.packing.has_room(cost_ns):
                packing = self.packing
                if packing.load_ns + cost_ns <= packing.machine.pack_ns:
                    return packing
        idle = self._next_idle(cost_ns)
        if idle is not None and not (tiny and idle.machine.is_crowded()):
            best = idle
        elif packing is not None and packing.load_ns + cost_ns <= self.packed_ns:
            return packing  # it had the least to do, and has not got much since
        else:
            if hint is not None and hint.takes(cost_ns, idle):
                best = hint
            n = len(self.busy)
            for _i in range(min(n, SCAN_LINKS)):
                self.cursor += 1
                if self.cursor >= n:
                    self.cursor = 0
                link = self.busy[self.cursor]
                if (best is None or link.load_ns < best.load_ns) and link.takes(cost_ns, idle):
                    best = link
                if idle is not None and link.machine is idle.machine:
                    prompt += link.has_little()
            if best is None:
                if idle is not None and prompt >= idle.machine.cpus and not self._wakes_another():
                    return None  # each CPU has enough to do, and is soon done with it
                best = idle
        if best is not None:
            self.packing = best
            self.packed_ns = min(best.load_ns + best.machine.pack_ns, AHEAD_NS)
        return best
